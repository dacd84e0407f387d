"""What is on the dashboards. Each is a list of rows of panels; a panel is a title, a unit and lines, a line an expression and its name.

Every selector names the shop (`$namespace`), for a Prometheus may scrape several, and other people's processes as well."""

import dataclasses

# those with a database
ROLES = ["catalog", "inventory", "ordering", "payment", "customer"]
SHOP = 'namespace="$namespace"'
OURS = f'job="mercato",{SHOP}'
ENVOY = f'job="envoy",{SHOP}'
RATE = "$__rate_interval"
# a process: its pod where there are pods
WHO = "{{component}} {{pod}}"


@dataclasses.dataclass
class Line:
    """An expression and the name of its lines. A rare one is rightly empty while nothing is wrong."""

    expression: str
    name: str
    rare: bool = False


def joined(*selectors):
    """Selectors with commas between them."""
    return ",".join(selector for selector in selectors if selector)


def of(metric, *selectors, shop=OURS):
    """The series of a metric in this shop."""
    return f"{metric}{{{joined(shop, *selectors)}}}"


def most(metric, by="", *selectors):
    """The largest of what several processes tell alike."""
    grouped = f" by ({by})" if by else ""
    return f"max{grouped} ({of(metric, *selectors)})"


def total(metric, by="", *selectors, shop=OURS):
    """A sum over processes."""
    grouped = f" by ({by})" if by else ""
    return f"sum{grouped} ({of(metric, *selectors, shop=shop)})"


def rate(metric, by="", *selectors, shop=OURS):
    """Events a second, summed."""
    grouped = f" by ({by})" if by else ""
    return f"sum{grouped} (rate({of(metric, *selectors, shop=shop)}[{RATE}]))"


def quantile(q, metric, by="", *selectors, shop=OURS):
    """A quantile of a histogram."""
    labels = f"le, {by}" if by else "le"
    return f"histogram_quantile({q}, sum by ({labels}) (rate({of(f'{metric}_bucket', *selectors, shop=shop)}[{RATE}])))"


def or_zero(expression):
    """Nothing means none; for single figures only."""
    return f"{expression} or vector(0)"


def panel(title, unit, *lines, stat=False, about=""):
    """A panel; its lines are `Line`s, or pairs."""
    lines = [line if isinstance(line, Line) else Line(*line) for line in lines]
    return {"title": title, "unit": unit, "lines": lines, "stat": stat, "about": about}


def calls(*selectors):
    """Rate, errors and duration of RPCs."""
    return [
        panel("Calls a second", "reqps", (rate("mercato_rpc_calls_total", "method", *selectors), "{{method}}")),
        panel(
            "Errors of ours a second",
            "reqps",
            Line(rate("mercato_rpc_calls_total", "method, code", 'fault="ours"', *selectors), "{{method}} {{code}}", rare=True),
            about="What the edge answers with a 5xx; refusals are not errors.",
        ),
        panel("Slow end of calls, 99 %", "s", (quantile(0.99, "mercato_rpc_duration_seconds", "method", *selectors), "{{method}}")),
    ]


def processes(*selectors):
    """What processes take."""
    cpu = f"rate({of('process_cpu_seconds_total', *selectors)}[{RATE}])"
    return [
        panel("Up", "none", (of("up", *selectors), WHO)),
        panel("CPU", "none", (cpu, WHO), about="In cores."),
        panel(
            "Memory",
            "bytes",
            (of("process_resident_memory_bytes", *selectors), WHO),
            Line(of("mercato_process_memory_limit_bytes", *selectors), f"limit {WHO}", rare=True),
        ),
    ]


def overview():
    """Is the shop well?"""
    events = "mercato_ordering_order_events_total"
    main = 'event=~"order.(created|confirmed|payment_processed|cancelled)"'
    revenue = f"3600 * {rate('mercato_ordering_revenue_minor_units_total', 'currency')}"
    refunded = f"3600 * {rate('mercato_ordering_refunded_minor_units_total', 'currency')}"
    firing = 'alertstate="firing"', 'alertname!="Watchdog"'
    runs = panel("Runs", "none", (of("mercato_build_info"), f"{WHO} {{{{version}}}} {{{{revision}}}}"), stat=True)
    panics = Line(total("mercato_task_panics_total", "component, task"), "{{component}} {{task}}", rare=True)
    return [
        ("Promises", [
            panel(
                "Error budget: burn over an hour",
                "none",
                (of("mercato:slo_burn:rate1h", shop=SHOP), "{{slo}}"),
                about="1 uses the budget of 30 days up in 30 days; above 14.4 wakes people.",
            ),
            panel("Error budget: burn over five minutes", "none", (of("mercato:slo_burn:rate5m", shop=SHOP), "{{slo}}")),
            panel("Error budget: burn over three days", "none", (of("mercato:slo_burn:rate3d", shop=SHOP), "{{slo}}")),
            panel(
                "Alerts that fire",
                "none",
                Line(f"count by (alertname, severity) ({of('ALERTS', *firing, shop=SHOP)})", "{{alertname}} {{severity}}", rare=True),
            ),
        ]),
        ("Business", [
            panel("Orders a minute", "none", (f"60 * {rate(events, 'event', main)}", "{{event}}")),
            panel("Revenue an hour, minor units", "none", (revenue, "{{currency}}"), Line(refunded, "refunded {{currency}}", rare=True)),
            panel("Orders under way", "none", (most("mercato_ordering_open_orders", "status, step"), "{{status}} {{step}}")),
        ]),
        ("Calls", calls()),
        ("Processes", [*processes(), runs, panel("Tasks that panicked", "none", panics, about="The process stops and is started again.")]),
    ]


def database(own):
    """What a role does with its database."""
    connections = [(total(f"mercato_db_{state}_connections", "", own), state) for state in ("used", "open", "limit")]
    waits = [(quantile(0.99, f"mercato_db_{what}_seconds", "", own), name) for what, name in (("wait", "waits"), ("hold", "holds"))]
    return [
        panel("Units of work a second", "ops", (rate("mercato_db_units_total", "outcome", own), "{{outcome}}")),
        panel("Connections", "none", *connections),
        panel("Waiting for, and holding a connection, 99 %", "s", *waits),
    ]


def role(name):
    """One role with a database: calls, database, events, its processes."""
    own, consumer = f'role="{name}"', f'consumer=~"{name}\\\\..*"'
    parked = (or_zero(most("mercato_inbox_parked_keys", "", own)), "parked keys")
    dead = (or_zero(most("mercato_inbox_dead_letters", "", own)), "dead letters")
    rows = [
        ("Calls", calls(f'method=~"/mercato.{name}.v1.*"')),
        ("Database", database(own)),
        ("Events", [
            panel("Outbox: waiting events", "none", (most("mercato_outbox_waiting_events", "", own), "events")),
            panel("Outbox: age of the oldest", "s", (most("mercato_outbox_oldest_seconds", "", own), "age")),
            panel("Parked, given up", "none", parked, dead),
        ]),
        # where all roles are one process, that one
        ("Processes", processes(f'component=~"{name}|mercato"')),
    ]
    if name == "customer":
        logins = panel("Sign-ins a second", "ops", (rate("mercato_customer_logins_total", "outcome"), "{{outcome}}"))
        refreshes = Line(rate("mercato_customer_refreshes_total", "outcome"), "{{outcome}}", rare=True)
        rows.insert(1, ("Sessions", [logins, panel("Refreshed sessions a second", "ops", refreshes)]))
        return rows
    rows.insert(3, ("Events it hears", [
        panel("Events a second", "ops", (rate("mercato_inbox_events_total", "consumer, effect", consumer), "{{consumer}} {{effect}}")),
        panel(
            "From their origin to here, 99 %",
            "s",
            (quantile(0.99, "mercato_inbox_delay_seconds", "consumer", consumer), "{{consumer}}"),
        ),
        panel("Behind", "none", (total("mercato_inbox_lag_events", "consumer", consumer), "{{consumer}}")),
    ]))
    return rows


def gateway():
    """The role that answers Envoy."""
    own = 'component=~"gateway|mercato"'
    return [
        ("Limits", [
            panel("Weighed a second", "reqps", (rate("mercato_gateway_rate_limit_total", "class, verdict"), "{{class}} {{verdict}}")),
            panel(
                "Turned away a second",
                "reqps",
                Line(rate("mercato_gateway_rate_limit_total", "class", 'verdict="over"'), "{{class}}", rare=True),
            ),
            panel("Calls of Redis a second", "ops", (rate("mercato_redis_calls_total", "outcome", own), "{{outcome}}")),
        ]),
        ("Processes", processes(own)),
    ]


def orders():
    """Orders and the saga, money and stock."""
    batches = [rate(f"mercato_batch_size_items_{part}", "batch") for part in ("sum", "count")]
    doubts = [("unknown_attempts", "unknown"), ("overdue_steps", "overdue"), ("open_cases", "open cases")]
    revived = (or_zero(rate("mercato_payment_revived_steps_total")), "steps")
    mismatches = (or_zero(rate("mercato_payment_mismatches_total")), "answers")
    waits = "status, step"
    return [
        ("Orders", [
            panel("What happens to orders, a second", "ops", (rate("mercato_ordering_order_events_total", "event"), "{{event}}")),
            panel("Orders under way", "none", (most("mercato_ordering_open_orders", waits), "{{status}} {{step}}")),
            panel("Longest standstill", "s", (most("mercato_ordering_oldest_open_seconds", waits), "{{status}} {{step}}")),
            panel(
                "Timers that ran out, a second",
                "ops",
                (or_zero(rate("mercato_ordering_timers_total")), "timers"),
                about="An answer was late.",
            ),
            panel(
                "Answers to a placed order, a second",
                "ops",
                (rate("mercato_ordering_placed_total", "replayed"), "replayed {{replayed}}"),
            ),
            panel("Watched orders", "none", (total("mercato_ordering_watched_orders"), "orders")),
        ]),
        ("Steps", [
            panel("Steps a second", "ops", (rate("mercato_work_runs_total", "kind, verdict"), "{{kind}} {{verdict}}")),
            panel("Steps, 99 %", "s", (quantile(0.99, "mercato_work_duration_seconds", "kind"), "{{kind}}")),
            panel("Items in a transaction", "none", (" / ".join(batches), "{{batch}}")),
        ]),
        ("Stock", [
            panel("Holds a second", "ops", (rate("mercato_inventory_reservations_total", "command, outcome"), "{{command}} {{outcome}}")),
            panel("Open holds", "none", (most("mercato_inventory_open_holds"), "holds")),
            panel("Longest overdue hold", "s", (most("mercato_inventory_overdue_hold_seconds"), "age")),
            panel("Shelves that differ", "none", (or_zero(most("mercato_inventory_ledger_differences")), "shelves"), stat=True),
        ]),
        ("Money", [
            panel(
                "Calls of the provider, a second",
                "ops",
                (rate("mercato_payment_provider_calls_total", "step, outcome"), "{{step}} {{outcome}}"),
            ),
            panel("Calls of the provider, 99 %", "s", (quantile(0.99, "mercato_payment_provider_duration_seconds", "step"), "{{step}}")),
            panel("In doubt", "none", *[(most(f"mercato_payment_{metric}"), name) for metric, name in doubts]),
            panel("In doubt for", "s", (most("mercato_payment_oldest_unknown_seconds"), "the oldest")),
            panel(
                "Differences from the provider's ledger",
                "none",
                (or_zero(most("mercato_payment_reconcile_differences")), "differences"),
                stat=True,
            ),
            panel("Webhooks a second", "ops", (rate("mercato_payment_webhooks_total", "outcome"), "{{outcome}}")),
            panel("Answers that do not fit, a second", "ops", mismatches),
            panel("Lost steps taken up again, a second", "ops", revived),
        ]),
    ]


def events():
    """From the transaction to everybody who listens."""
    kinds = ("failures", "restarts", "gaps")
    troubles = [Line(rate(f"mercato_inbox_{what}_total", "consumer"), f"{what} {{{{consumer}}}}", rare=True) for what in kinds]
    return [
        ("Out", [
            panel("Events sent a second", "ops", (rate("mercato_outbox_delay_seconds_count", "topic"), "{{topic}}")),
            panel("From commit to acknowledgement, 99 %", "s", (quantile(0.99, "mercato_outbox_delay_seconds", "topic"), "{{topic}}")),
            panel("Waiting", "none", (most("mercato_outbox_waiting_events", "role"), "{{role}}")),
            panel("Age of the oldest", "s", (most("mercato_outbox_oldest_seconds", "role"), "{{role}}")),
            panel("Sendings that failed, a second", "ops", Line(rate("mercato_outbox_failures_total", "topic"), "{{topic}}", rare=True)),
            panel("Refused by the broker for good", "none", (most("mercato_outbox_dead_events", "role"), "{{role}}")),
        ]),
        ("In", [
            panel("Events a second", "ops", (rate("mercato_inbox_events_total", "consumer, effect"), "{{consumer}} {{effect}}")),
            panel("From their origin to here, 99 %", "s", (quantile(0.99, "mercato_inbox_delay_seconds", "consumer"), "{{consumer}}")),
            panel("Transactions, 99 %", "s", (quantile(0.99, "mercato_inbox_transaction_seconds", "consumer"), "{{consumer}}")),
            panel("Behind", "none", (total("mercato_inbox_lag_events", "consumer"), "{{consumer}}")),
            panel("Failed transactions, restarts, gaps a second", "ops", *troubles),
            panel(
                "Duplicates that were ignored, a second",
                "ops",
                Line(rate("mercato_inbox_events_total", "consumer", 'effect="duplicate"'), "{{consumer}}", rare=True),
            ),
            panel(
                "Parked keys and events",
                "none",
                (most("mercato_inbox_parked_keys", "role"), "keys {{role}}"),
                (most("mercato_inbox_parked_events", "role"), "events {{role}}"),
            ),
            panel("Given up", "none", (most("mercato_inbox_dead_letters", "role"), "{{role}}")),
            panel("Brokers connected", "none", (f"min by (consumer) ({of('mercato_kafka_connected_brokers')})", "{{consumer}}")),
            panel("Thrown out of their group, a second", "ops", (or_zero(rate("mercato_kafka_max_poll_exceeded_total")), "clients")),
            panel(
                "Heard by caches, a second",
                "ops",
                Line(rate("mercato_broadcast_events_total", "broadcast"), "{{broadcast}}", rare=True),
            ),
        ]),
    ]


def stores():
    """PostgreSQL, Redis, caches and neighbours as the roles see them."""
    units, reads = rate("mercato_db_units_total", "role"), rate("mercato_cache_reads_total", "cache")
    failed = rate("mercato_db_units_total", "role", 'outcome=~"timeout|unknown|error|saturated"')
    missed = rate("mercato_cache_reads_total", "cache", 'from="source"')
    used = f"max by (role) ({of('mercato_db_used_connections')} / {of('mercato_db_limit_connections')})"
    return [
        ("PostgreSQL", [
            panel("Units of work a second", "ops", (rate("mercato_db_units_total", "role, outcome"), "{{role}} {{outcome}}")),
            panel("Share that fails", "percentunit", Line(f"{failed} / {units}", "{{role}}", rare=True)),
            panel("Connections used, of those allowed", "percentunit", (used, "{{role}}")),
            panel("Waiting for a connection, 99 %", "s", (quantile(0.99, "mercato_db_wait_seconds", "role"), "{{role}}")),
            panel("Holding a connection, 99 %", "s", (quantile(0.99, "mercato_db_hold_seconds", "role"), "{{role}}")),
            panel("Units of work under way", "none", (total("mercato_db_running_units", "role, kind"), "{{role}} {{kind}}")),
            panel(
                "Connections thrown away a second",
                "ops",
                Line(rate("mercato_db_discarded_connections_total", "role"), "{{role}}", rare=True),
            ),
        ]),
        ("Redis and caches", [
            panel("Calls of Redis a second", "ops", (rate("mercato_redis_calls_total", "outcome"), "{{outcome}}")),
            panel("Hit ratio", "percentunit", (f"1 - {missed} / {reads}", "{{cache}}")),
            panel("Reads a second", "ops", (rate("mercato_cache_reads_total", "cache, from"), "{{cache}} from {{from}}")),
        ]),
        ("Neighbours", [
            panel("Calls a second", "ops", (rate("mercato_peer_calls_total", "peer, code"), "{{peer}} {{code}}")),
            panel("Calls, 99 %", "s", (quantile(0.99, "mercato_peer_duration_seconds", "peer"), "{{peer}}")),
            panel("Breakers open", "none", (most("mercato_peer_breaker_open", "role, peer, kind"), "{{role}} to {{peer}} {{kind}}")),
            panel("Refused a second", "ops", (rate("mercato_peer_refused_total", "peer"), "{{peer}}")),
            panel("Sent again a second", "ops", Line(rate("mercato_peer_retries_total", "peer"), "{{peer}}", rare=True)),
        ]),
    ]


def runtime():
    """What goes on inside the processes."""
    running = f"{of('mercato_rpc_running_calls')} / {of('mercato_rpc_limit_calls')}"
    busy = f"rate({of('mercato_runtime_busy_seconds_total')}[{RATE}]) / {of('mercato_runtime_workers')}"
    since = f"time() - max by (component, task) ({of('mercato_job_last_success_timestamp_seconds')})"
    intervals = f"{since} - 3 * max by (component, task) ({of('mercato_job_interval_seconds')})"
    return [
        ("Calls", [
            panel("Running calls, of those allowed", "percentunit", (running, f"{WHO} {{{{door}}}} {{{{kind}}}}")),
            panel(
                "Turned away a second",
                "ops",
                Line(rate("mercato_rpc_shed_total", "method"), "{{method}}", rare=True),
                Line(rate("mercato_batch_shed_total", "batch"), "{{batch}}", rare=True),
            ),
        ]),
        ("Runtime", [
            panel("Threads busy", "percentunit", (busy, WHO)),
            panel("Tasks", "none", (of("mercato_runtime_tasks"), WHO), (of("mercato_runtime_waiting_tasks"), f"waiting {WHO}")),
            panel("Threads", "none", (of("process_threads"), WHO)),
            panel("File descriptors", "none", (of("process_open_fds"), WHO), (of("process_max_fds"), f"limit {WHO}")),
            panel("Up since", "s", (f"time() - {of('process_start_time_seconds')}", WHO)),
        ]),
        ("Periodic work", [
            panel("Runs a second", "ops", (rate("mercato_job_runs_total", "task, outcome"), "{{task}} {{outcome}}")),
            panel("Since the last good run", "s", (since, "{{component}} {{task}}")),
            panel("Beyond three intervals", "s", (intervals, "{{component}} {{task}}"), about="Above two minutes an alert fires."),
        ]),
        ("Traces", [
            panel("Spans exported a second", "ops", (or_zero(rate("mercato_trace_exported_spans_total")), "spans")),
            panel("Spans lost a second", "ops", Line(rate("mercato_trace_dropped_spans_total", "why"), "{{why}}", rare=True)),
            panel("Traces kept for what happened, a second", "ops", Line(rate("mercato_trace_kept_total", "why"), "{{why}}", rare=True)),
        ]),
    ]


def edge():
    """Envoy, by its own statistics, and the limits."""
    http, by, who = 'envoy_http_conn_manager_prefix="edge"', "envoy_cluster_name", "{{pod}} {{instance}}"
    duration = "envoy_http_downstream_rq_time"
    answers = rate("envoy_http_downstream_rq_xx", "envoy_response_code_class", http, shop=ENVOY)
    upstream = rate("envoy_cluster_upstream_rq_xx", f"{by}, envoy_response_code_class", shop=ENVOY)
    kinds = (("timeout", "timeout"), ("rx_reset", "reset"))
    troubles = [(rate(f"envoy_cluster_upstream_rq_{what}", by, shop=ENVOY), name) for what, name in kinds]
    pressure = [(f"envoy_overload_envoy_resource_monitors_{what}_pressure", name) for what, name in (
        ("fixed_heap", "memory"), ("global_downstream_max_connections", "connections"))]
    return [
        ("Requests", [
            panel("Requests a second", "reqps", (answers, "{{envoy_response_code_class}}xx")),
            panel(
                "Duration",
                "ms",
                *[(quantile(q, duration, "", http, shop=ENVOY), name) for q, name in [(0.5, "median"), (0.99, "99 %")]],
            ),
            panel(
                "Under way",
                "none",
                (total("envoy_http_downstream_rq_active", "", http, shop=ENVOY), "requests"),
                (total("envoy_http_downstream_cx_active", "", http, shop=ENVOY), "connections"),
            ),
        ]),
        ("Behind it", [
            panel("Requests a second", "reqps", (upstream, f"{{{{{by}}}}} {{{{envoy_response_code_class}}}}xx")),
            panel("Sent again a second", "reqps", (rate("envoy_cluster_upstream_rq_retry", by, shop=ENVOY), f"{{{{{by}}}}}")),
            panel("Timeouts and resets a second", "reqps", *[(expression, f"{name} {{{{{by}}}}}") for expression, name in troubles]),
            panel("Healthy hosts", "none", (f"min by ({by}) ({of('envoy_cluster_membership_healthy', shop=ENVOY)})", f"{{{{{by}}}}}")),
        ]),
        ("Limits and memory", [
            panel(
                "Memory and connections, of those allowed",
                "percent",
                *[(of(metric, shop=ENVOY), f"{name} {who}") for metric, name in pressure],
            ),
            panel("Connections refused a second", "ops", (rate("envoy_listener_downstream_global_cx_overflow", shop=ENVOY), "connections")),
            panel("Memory", "bytes", (of("envoy_server_memory_allocated", shop=ENVOY), f"allocated {who}")),
            panel("Up", "none", (of("up", shop=ENVOY), who)),
            panel("Up since", "s", (of("envoy_server_uptime", shop=ENVOY), who)),
        ]),
    ]


def everything():
    """All dashboards by file name: title and rows."""
    boards = {
        "overview": ("overview", overview()),
        "orders": ("orders, money and stock", orders()),
        "events": ("events", events()),
        "stores": ("stores and neighbours", stores()),
        "processes": ("processes", runtime()),
        "edge": ("edge", edge()),
        "role-gateway": ("gateway", gateway()),
    }
    return boards | {f"role-{name}": (name, role(name)) for name in ROLES}
