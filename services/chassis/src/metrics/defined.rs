//! The metrics of the chassis. Rates, errors and durations of calls and events have one metric each; the rest says why.

crate::define_metrics! {
    /// RPCs that have ended, by method, gRPC code and whose fault it was: none, ours (a 5xx at the edge) or the caller's (a refusal, a
    /// limit of its own, a call it gave up); a stream counts when it ends.
    Counter RPC_CALLS = "mercato_rpc_calls_total" ["method", "code", "fault"];
    /// How long RPCs took, queueing in the process included.
    Histogram RPC_DURATION = "mercato_rpc_duration_seconds" ["method"];
    /// RPCs turned away because as many as allowed were running.
    Counter RPC_SHED = "mercato_rpc_shed_total" ["method"];
    /// RPCs running now: `door` is outside or inside (from roles of the same process), `kind` is call or stream.
    Gauge RPC_RUNNING = "mercato_rpc_running_calls" ["door", "kind"];
    /// RPCs that may run at once.
    Gauge RPC_LIMIT = "mercato_rpc_limit_calls" ["door", "kind"];

    /// Calls to other roles that have ended, by gRPC code.
    Counter PEER_CALLS = "mercato_peer_calls_total" ["peer", "method", "code"];
    /// How long calls to other roles took, until the answer began.
    Histogram PEER_DURATION = "mercato_peer_duration_seconds" ["peer", "method"];
    /// Calls to other roles that were sent a second time.
    Counter PEER_RETRIES = "mercato_peer_retries_total" ["peer"];
    /// Calls to other roles that were not sent because the breaker was open.
    Counter PEER_REFUSED = "mercato_peer_refused_total" ["peer"];
    /// 1 while the breaker before another role is open or tries whether it works again, 0 while it is closed; `kind` is read or write.
    Gauge PEER_BREAKER = "mercato_peer_breaker_open" ["role", "peer", "kind"];

    /// Units of work that have ended: committed, refused (by the domain), conflict, timeout, unknown, saturated, error.
    Counter DB_UNITS = "mercato_db_units_total" ["role", "outcome"];
    /// How long a unit of work waited for its connection.
    Histogram DB_WAIT = "mercato_db_wait_seconds" ["role"];
    /// How long a unit of work held its connection.
    Histogram DB_HOLD = "mercato_db_hold_seconds" ["role"];
    /// Units of work under way, waiting ones included, by kind: foreground (callers) or background (consumers and jobs).
    Gauge DB_RUNNING = "mercato_db_running_units" ["role", "kind"];
    /// Connections open.
    Gauge DB_CONNECTIONS = "mercato_db_open_connections" ["role"];
    /// Connections at work.
    Gauge DB_IN_USE = "mercato_db_used_connections" ["role"];
    /// Connections that may be open.
    Gauge DB_LIMIT = "mercato_db_limit_connections" ["role"];
    /// Connections thrown away because nobody knows how their transaction ended.
    Counter DB_DISCARDED = "mercato_db_discarded_connections_total" ["role"];

    /// Events committed and not acknowledged by the broker.
    Gauge OUTBOX_WAITING = "mercato_outbox_waiting_events" ["role"];
    /// The age of the oldest such event; 0 without one.
    Gauge OUTBOX_OLDEST = "mercato_outbox_oldest_seconds" ["role"];
    /// Events that the broker refused for good, in the table outbox_dead.
    Gauge OUTBOX_DEAD = "mercato_outbox_dead_events" ["role"];
    /// Sendings that failed.
    Counter OUTBOX_FAILURES = "mercato_outbox_failures_total" ["topic"];
    /// From an event's transaction to its acknowledgement by the broker; the count is the events sent.
    Histogram OUTBOX_DELAY = "mercato_outbox_delay_seconds" ["topic"];

    /// Events read: applied, ignored, duplicate, parked, redriven, unreadable.
    Counter INBOX_EVENTS = "mercato_inbox_events_total" ["consumer", "effect"];
    /// From an event's transaction at its origin to the end of its transaction here.
    Histogram INBOX_DELAY = "mercato_inbox_delay_seconds" ["consumer"];
    /// How long a transaction took that applied events.
    Histogram INBOX_DURATION = "mercato_inbox_transaction_seconds" ["consumer"];
    /// Transactions of consumers that failed; most are tried again.
    Counter INBOX_FAILURES = "mercato_inbox_failures_total" ["consumer"];
    /// Events in the topics that are not committed as consumed, over the partitions of this process.
    Gauge INBOX_LAG = "mercato_inbox_lag_events" ["consumer"];
    /// Events that came before an earlier one of the same aggregate.
    Counter INBOX_GAPS = "mercato_inbox_gaps_total" ["consumer"];
    /// Consumers started again after they broke off or stalled.
    Counter INBOX_RESTARTS = "mercato_inbox_restarts_total" ["consumer"];
    /// Events set aside, to be tried again in order.
    Gauge INBOX_PARKED = "mercato_inbox_parked_events" ["role"];
    /// Aggregates with such events.
    Gauge INBOX_PARKED_KEYS = "mercato_inbox_parked_keys" ["role"];
    /// Events given up, in the table dead_letter, that nobody has closed.
    Gauge INBOX_DEAD = "mercato_inbox_dead_letters" ["role"];
    /// Events heard by listeners that every process has, for caches.
    Counter BROADCAST_EVENTS = "mercato_broadcast_events_total" ["broadcast"];
    /// Brokers that a consumer's client is connected to.
    Gauge KAFKA_CONNECTED = "mercato_kafka_connected_brokers" ["consumer"];
    /// Clients thrown out of their group because they did not ask for events in time.
    Counter KAFKA_EVICTED = "mercato_kafka_max_poll_exceeded_total" [];

    /// Reads of a cache, by where the value came from: memory, redis or source.
    Counter CACHE_READS = "mercato_cache_reads_total" ["cache", "from"];
    /// Calls of Redis: ok, error, or refused by the breaker.
    Counter REDIS_CALLS = "mercato_redis_calls_total" ["outcome"];

    /// Runs of periodic jobs: ok or error.
    Counter JOB_RUNS = "mercato_job_runs_total" ["task", "outcome"];
    /// When a job last ended well, since 1970; until it has, when it was started.
    Gauge JOB_LAST = "mercato_job_last_success_timestamp_seconds" ["task"];
    /// From the end of one run of a job to the start of the next.
    Gauge JOB_INTERVAL = "mercato_job_interval_seconds" ["task"];
    /// Runs of durable steps: done, or again when they failed and are run later.
    Counter WORK_RUNS = "mercato_work_runs_total" ["kind", "verdict"];
    /// How long a run of a durable step took.
    Histogram WORK_DURATION = "mercato_work_duration_seconds" ["kind"];
    /// Items that went into one transaction.
    Histogram BATCH_SIZE = "mercato_batch_size_items" ["batch"];
    /// Items turned away because the queue before the batch was full.
    Counter BATCH_SHED = "mercato_batch_shed_total" ["batch"];
    /// Background tasks that panicked.
    Counter TASK_PANICS = "mercato_task_panics_total" ["task"];

    /// Spans that a collector took.
    Counter TRACE_EXPORTED = "mercato_trace_exported_spans_total" [];
    /// Spans that were lost: queue (no room), waiting (no room to wait for the end of their trace), collector (it is away or slow), refused.
    Counter TRACE_DROPPED = "mercato_trace_dropped_spans_total" ["why"];
    /// Traces exported though they were not sampled, by why: error or slow.
    Counter TRACE_KEPT = "mercato_trace_kept_total" ["why"];
}
