#!/usr/bin/env python3
"""Makes the dashboards: generate.py [--check | --expressions].

Every dashboard is a list of rows of panels, and a panel is a title, a unit and expressions. --check says whether the files are what this
makes; --expressions prints every expression as JSON lines for dev/observe --verify. `$__rate_interval` is Grafana's; variables are few."""

import json
import pathlib
import sys

HERE = pathlib.Path(__file__).parent / "dashboards"
ROLES = {
    "catalog": "/mercato.catalog.v1.*",
    "inventory": "/mercato.inventory.v1.*",
    "ordering": "/mercato.ordering.v1.*",
    "payment": "/mercato.payment.v1.*",
    "customer": "/mercato.customer.v1.*",
}
FAULTS = 'code=~"UNKNOWN|DEADLINE_EXCEEDED|RESOURCE_EXHAUSTED|INTERNAL|UNAVAILABLE|DATA_LOSS"'
RATE = "$__rate_interval"


def rate(metric, selector="", by=""):
    """Events a second, summed."""
    grouped = f" by ({by})" if by else ""
    return f"sum{grouped} (rate({metric}{{{selector}}}[{RATE}]))"


def or_zero(expression):
    """Nothing means none: a counter that never counted has no series."""
    return f"{expression} or vector(0)"


def quantile(q, metric, selector="", by=""):
    """A quantile of a histogram."""
    labels = f"le, {by}" if by else "le"
    return f"histogram_quantile({q}, sum by ({labels}) (rate({metric}_bucket{{{selector}}}[{RATE}])))"


def panel(title, unit, *queries, stat=False, help=""):
    """A panel; each query is an expression and the name of its lines."""
    return {"title": title, "unit": unit, "queries": queries, "stat": stat, "help": help}


def quantiles(title, metric, selector="", help=""):
    """The median and the slow end of a histogram."""
    lines = [(quantile(q, metric, selector), name) for q, name in [(0.5, "median"), (0.95, "95 %"), (0.99, "99 %")]]
    return panel(title, "s", *lines, help=help)


def calls(selector, by="method"):
    """Rate, errors and duration of RPCs."""
    return [
        panel("Calls a second", "reqps", (rate("mercato_rpc_calls_total", selector, by), f"{{{{{by}}}}}")),
        panel(
            "Errors of ours a second",
            "reqps",
            (or_zero(rate("mercato_rpc_calls_total", f"{selector},{FAULTS}", f"{by}, code")), f"{{{{{by}}}}} {{{{code}}}}"),
            help="Codes that are our fault; refusals are not errors.",
        ),
        panel("Slow end of calls, 99 %", "s", (quantile(0.99, "mercato_rpc_duration_seconds", selector, by), f"{{{{{by}}}}}")),
    ]


def overview():
    """Is the shop well?"""
    orders = "mercato_ordering_order_events_total"
    return [
        ("Promises", [
            panel("Error budget: burn over an hour", "none", ("mercato:slo_burn:rate1h", "{{slo}}"), help="1 uses the budget of 30 days up in 30 days; above 14.4 wakes people."),
            panel("Error budget: burn over five minutes", "none", ("mercato:slo_burn:rate5m", "{{slo}}")),
            panel("Alerts that fire", "none", (or_zero('count by (alertname, severity) (ALERTS{alertstate="firing"})'), "{{alertname}} {{severity}}")),
        ]),
        ("Business", [
            panel("Orders a minute", "none", ("60 * " + rate(orders, 'event=~"order.(created|confirmed|payment_processed|cancelled)"', "event"), "{{event}}")),
            panel("Revenue an hour, minor units", "none", (f'3600 * {rate("mercato_ordering_revenue_minor_units_total", "", "currency")}', "{{currency}}"), (or_zero(f'3600 * {rate("mercato_ordering_refunded_minor_units_total", "", "currency")}'), "refunded {{currency}}")),
            panel("Orders under way", "none", ("max by (status) (mercato_ordering_open_orders)", "{{status}}")),
        ]),
        ("Calls", calls('method!=""', "method")),
        ("Processes", [
            panel("Up", "none", ("up", "{{job}} {{instance}}")),
            panel("CPU", "none", (f"rate(process_cpu_seconds_total[{RATE}])", "{{instance}}"), help="In cores."),
            panel("Memory", "bytes", ("process_resident_memory_bytes", "{{instance}}")),
            panel("Runs", "none", ("mercato_build_info", "{{instance}} {{version}} {{revision}}"), stat=True),
        ]),
    ]


def role(name, methods):
    """One role: calls, database, events, neighbours."""
    method, own, consumer = f'method=~"{methods}"', f'role="{name}"', f'consumer=~"{name}\\\\..*"'
    events = [
        panel("Outbox: waiting events", "none", (f"max(mercato_outbox_waiting_events{{{own}}})", "events")),
        panel("Outbox: age of the oldest", "s", (f"max(mercato_outbox_oldest_seconds{{{own}}})", "age")),
        panel("Parked, given up", "none", (f"max(mercato_inbox_parked_keys{{{own}}}) or vector(0)", "parked keys"), (f"max(mercato_inbox_dead_letters{{{own}}}) or vector(0)", "dead letters")),
    ]
    rows = [
        ("Calls", calls(method)),
        ("Database", [
            panel("Units of work a second", "ops", (rate("mercato_db_units_total", own, "outcome"), "{{outcome}}")),
            panel("Connections", "none", (f"sum(mercato_db_used_connections{{{own}}})", "used"), (f"sum(mercato_db_open_connections{{{own}}})", "open"), (f"sum(mercato_db_limit_connections{{{own}}})", "limit")),
            panel("Waiting for, and holding a connection, 99 %", "s", (quantile(0.99, "mercato_db_wait_seconds", own), "waits"), (quantile(0.99, "mercato_db_hold_seconds", own), "holds")),
        ]),
        ("Events", events),
    ]
    if name not in ("customer",):
        rows.append(("Events it hears", [
            panel("Events a second", "ops", (rate("mercato_inbox_events_total", consumer, "consumer, effect"), "{{consumer}} {{effect}}")),
            panel("From their origin to here, 99 %", "s", (quantile(0.99, "mercato_inbox_delay_seconds", consumer, "consumer"), "{{consumer}}")),
            panel("Behind", "none", (f"sum by (consumer) (mercato_inbox_lag_events{{{consumer}}})", "{{consumer}}")),
        ]))
    return rows


def orders():
    """Orders and the saga, money and stock."""
    return [
        ("Orders", [
            panel("What happens to orders, a second", "ops", (rate("mercato_ordering_order_events_total", "", "event"), "{{event}}")),
            panel("Orders under way", "none", ("max by (status) (mercato_ordering_open_orders)", "{{status}}")),
            panel("Age of the oldest under way", "s", ("max by (status) (mercato_ordering_oldest_open_seconds)", "{{status}}")),
            panel("Timers that ran out, a second", "ops", (or_zero(rate("mercato_ordering_timers_total")), "timers"), help="An answer or a step was late."),
            panel("Answers to a placed order, a second", "ops", (rate("mercato_ordering_placed_total", "", "replayed"), "replayed {{replayed}}")),
            panel("Watched orders", "none", ("sum(mercato_ordering_watched_orders)", "orders")),
        ]),
        ("Steps", [
            panel("Steps a second", "ops", (rate("mercato_work_runs_total", "", "kind, verdict"), "{{kind}} {{verdict}}")),
            panel("Steps, 99 %", "s", (quantile(0.99, "mercato_work_duration_seconds", "", "kind"), "{{kind}}")),
            panel("Items in a transaction", "none", (f'{rate("mercato_batch_size_items_sum", "", "batch")} / {rate("mercato_batch_size_items_count", "", "batch")}', "{{batch}}")),
        ]),
        ("Stock", [
            panel("Holds a second", "ops", (rate("mercato_inventory_reservations_total", "", "command, outcome"), "{{command}} {{outcome}}")),
            panel("Open holds", "none", ("max(mercato_inventory_open_holds)", "holds")),
            panel("Shelves that differ from their ledger", "none", (or_zero("max(mercato_inventory_ledger_differences)"), "shelves"), stat=True),
        ]),
        ("Money", [
            panel("Calls of the provider, a second", "ops", (rate("mercato_payment_provider_calls_total", "", "step, outcome"), "{{step}} {{outcome}}")),
            panel("Calls of the provider, 99 %", "s", (quantile(0.99, "mercato_payment_provider_duration_seconds", "", "step"), "{{step}}")),
            panel("Unknown, overdue, waiting for a person", "none", ("max(mercato_payment_unknown_attempts)", "unknown"), ("max(mercato_payment_overdue_steps)", "overdue"), ("max(mercato_payment_open_cases)", "open cases")),
            panel("Differences from the provider's ledger", "none", (or_zero("max(mercato_payment_reconcile_differences)"), "differences"), stat=True),
            panel("Webhooks a second", "ops", (rate("mercato_payment_webhooks_total", "", "outcome"), "{{outcome}}")),
        ]),
    ]


def events():
    """From the transaction to everybody who listens."""
    return [
        ("Out", [
            panel("Events sent a second", "ops", (rate("mercato_outbox_delay_seconds_count", "", "topic"), "{{topic}}")),
            panel("From commit to acknowledgement, 99 %", "s", (quantile(0.99, "mercato_outbox_delay_seconds", "", "topic"), "{{topic}}")),
            panel("Waiting", "none", ("max by (role) (mercato_outbox_waiting_events)", "{{role}}")),
            panel("Age of the oldest", "s", ("max by (role) (mercato_outbox_oldest_seconds)", "{{role}}")),
            panel("Sendings that failed, a second", "ops", (or_zero(rate("mercato_outbox_failures_total", "", "topic")), "{{topic}}")),
            panel("Refused by the broker for good", "none", ("max by (role) (mercato_outbox_dead_events)", "{{role}}")),
        ]),
        ("In", [
            panel("Events a second", "ops", (rate("mercato_inbox_events_total", "", "consumer, effect"), "{{consumer}} {{effect}}")),
            panel("From their origin to here, 99 %", "s", (quantile(0.99, "mercato_inbox_delay_seconds", "", "consumer"), "{{consumer}}")),
            panel("Transactions, 99 %", "s", (quantile(0.99, "mercato_inbox_transaction_seconds", "", "consumer"), "{{consumer}}")),
            panel("Behind", "none", ("sum by (consumer) (mercato_inbox_lag_events)", "{{consumer}}")),
            panel("Failed transactions, restarts, gaps a second", "ops", (or_zero(rate("mercato_inbox_failures_total", "", "consumer")), "failed {{consumer}}"), (rate("mercato_inbox_restarts_total", "", "consumer"), "restarts {{consumer}}"), (or_zero(rate("mercato_inbox_gaps_total", "", "consumer")), "gaps {{consumer}}")),
            panel("Duplicates that were ignored, a second", "ops", (or_zero(rate("mercato_inbox_events_total", 'effect="duplicate"', "consumer")), "{{consumer}}")),
            panel("Parked keys and events", "none", ("max by (role) (mercato_inbox_parked_keys)", "keys {{role}}"), ("max by (role) (mercato_inbox_parked_events)", "events {{role}}")),
            panel("Given up", "none", ("max by (role) (mercato_inbox_dead_letters)", "{{role}}")),
            panel("Brokers connected", "none", ("min by (consumer) (mercato_kafka_connected_brokers)", "{{consumer}}")),
            panel("Heard by caches, a second", "ops", (or_zero(rate("mercato_broadcast_events_total", "", "broadcast")), "{{broadcast}}")),
        ]),
    ]


def stores():
    """PostgreSQL, Redis, caches and neighbours as the roles see them."""
    failed = rate("mercato_db_units_total", 'outcome=~"timeout|unknown|error|saturated"', "role")
    missed = rate("mercato_cache_reads_total", 'from="source"', "cache")
    hit = f'1 - {missed} / {rate("mercato_cache_reads_total", "", "cache")}'
    return [
        ("PostgreSQL", [
            panel("Units of work a second", "ops", (rate("mercato_db_units_total", "", "role, outcome"), "{{role}} {{outcome}}")),
            panel("Share that fails", "percentunit", (or_zero(f'{failed} / {rate("mercato_db_units_total", "", "role")}'), "{{role}}")),
            panel("Connections used, of those allowed", "percentunit", ("max by (role) (mercato_db_used_connections / mercato_db_limit_connections)", "{{role}}")),
            panel("Waiting for a connection, 99 %", "s", (quantile(0.99, "mercato_db_wait_seconds", "", "role"), "{{role}}")),
            panel("Holding a connection, 99 %", "s", (quantile(0.99, "mercato_db_hold_seconds", "", "role"), "{{role}}")),
            panel("Units of work under way", "none", ("sum by (role, kind) (mercato_db_running_units)", "{{role}} {{kind}}")),
            panel("Connections thrown away a second", "ops", (rate("mercato_db_discarded_connections_total", "", "role"), "{{role}}")),
        ]),
        ("Redis and caches", [
            panel("Calls of Redis a second", "ops", (rate("mercato_redis_calls_total", "", "outcome"), "{{outcome}}")),
            panel("Hit ratio", "percentunit", (hit, "{{cache}}")),
            panel("Reads a second", "ops", (rate("mercato_cache_reads_total", "", "cache, from"), "{{cache}} from {{from}}")),
        ]),
        ("Neighbours", [
            panel("Calls a second", "ops", (rate("mercato_peer_calls_total", "", "peer, code"), "{{peer}} {{code}}")),
            panel("Calls, 99 %", "s", (quantile(0.99, "mercato_peer_duration_seconds", "", "peer"), "{{peer}}")),
            panel("Breakers open", "none", ("max by (role, peer, kind) (mercato_peer_breaker_open)", "{{role}} to {{peer}} {{kind}}")),
            panel("Refused, sent again a second", "ops", (rate("mercato_peer_refused_total", "", "peer"), "refused {{peer}}"), (or_zero(rate("mercato_peer_retries_total", "", "peer")), "again {{peer}}")),
        ]),
        ("Processes", [
            panel("Running calls, of those allowed", "percentunit", ("max by (instance, door, kind) (mercato_rpc_running_calls / mercato_rpc_limit_calls)", "{{instance}} {{door}} {{kind}}")),
            panel("Turned away a second", "ops", (or_zero(rate("mercato_rpc_shed_total", "", "method")), "{{method}}"), (or_zero(rate("mercato_batch_shed_total", "", "batch")), "{{batch}}")),
            panel("Threads busy", "percentunit", (f"rate(mercato_runtime_busy_seconds_total[{RATE}]) / mercato_runtime_workers", "{{instance}}")),
            panel("Tasks", "none", ("mercato_runtime_tasks", "{{instance}}"), ("mercato_runtime_waiting_tasks", "waiting {{instance}}")),
            panel("File descriptors", "none", ("process_open_fds", "{{instance}}")),
            panel("Threads", "none", ("process_threads", "{{instance}}")),
            panel("Since the last good run of periodic work", "s", ("time() - max by (task) (mercato_job_last_success_timestamp_seconds)", "{{task}}")),
        ]),
    ]


def edge():
    """Envoy, by its own statistics, and the limits."""
    http = 'envoy_http_conn_manager_prefix="edge"'
    return [
        ("Requests", [
            panel("Requests a second", "reqps", (rate("envoy_http_downstream_rq_xx", http, "envoy_response_code_class"), "{{envoy_response_code_class}}xx")),
            panel("Duration", "ms", *[(f"histogram_quantile({q}, sum by (le) (rate(envoy_http_downstream_rq_time_bucket{{{http}}}[{RATE}])))", n) for q, n in [(0.5, "median"), (0.99, "99 %")]]),
            panel("Under way", "none", (f"sum(envoy_http_downstream_rq_active{{{http}}})", "requests"), (f"sum(envoy_http_downstream_cx_active{{{http}}})", "connections")),
        ]),
        ("Behind it", [
            panel("Requests a second", "reqps", (rate("envoy_cluster_upstream_rq_xx", "", "envoy_cluster_name, envoy_response_code_class"), "{{envoy_cluster_name}} {{envoy_response_code_class}}xx")),
            panel("Sent again a second", "reqps", (rate("envoy_cluster_upstream_rq_retry", "", "envoy_cluster_name"), "{{envoy_cluster_name}}")),
            panel("Timeouts and resets a second", "reqps", (rate("envoy_cluster_upstream_rq_timeout", "", "envoy_cluster_name"), "timeout {{envoy_cluster_name}}"), (rate("envoy_cluster_upstream_rq_rx_reset", "", "envoy_cluster_name"), "reset {{envoy_cluster_name}}")),
            panel("Healthy hosts", "none", ("min by (envoy_cluster_name) (envoy_cluster_membership_healthy)", "{{envoy_cluster_name}}")),
        ]),
        ("Limits and memory", [
            panel("Weighed against a limit, a second", "reqps", (rate("mercato_gateway_rate_limit_total", "", "class, verdict"), "{{class}} {{verdict}}")),
            panel("Memory", "bytes", ("envoy_server_memory_allocated", "allocated")),
            panel("Up since", "s", ("envoy_server_uptime", "{{instance}}")),
        ]),
    ]


def target(number, expression, legend):
    """A query. Points on a line of durations lead to a trace each, where the data source says where traces are."""
    made = {"refId": chr(ord("A") + number), "expr": expression, "legendFormat": legend}
    return made | {"exemplar": True} if "_seconds_bucket{" in expression else made


def grafana(uid, title, rows):
    """The dashboard as Grafana wants it: three panels beside each other."""
    panels, y, number = [], 0, 0
    for name, entries in rows:
        number += 1
        panels.append({"id": number, "type": "row", "title": name, "gridPos": {"x": 0, "y": y, "w": 24, "h": 1}, "collapsed": False, "panels": []})
        y += 1
        for nth, entry in enumerate(entries):
            number += 1
            place = {"x": nth % 3 * 8, "y": y + nth // 3 * 8, "w": 8, "h": 8}
            panels.append({
                "id": number,
                "type": "stat" if entry["stat"] else "timeseries",
                "title": entry["title"],
                "description": entry["help"],
                "gridPos": place,
                "datasource": {"type": "prometheus", "uid": "${source}"},
                "fieldConfig": {"defaults": {"unit": entry["unit"], "min": 0}, "overrides": []},
                "targets": [target(i, *query) for i, query in enumerate(entry["queries"])],
            })
        y += (len(entries) + 2) // 3 * 8
    source = {"name": "source", "type": "datasource", "query": "prometheus", "label": "Prometheus", "hide": 0}
    return {
        "uid": uid,
        "title": title,
        "tags": ["mercato"],
        "timezone": "utc",
        "schemaVersion": 39,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": [source]},
        "links": [{"type": "dashboards", "tags": ["mercato"], "title": "Mercato", "asDropdown": True}],
        "panels": panels,
    }


def dashboards():
    """All of them, by file name."""
    made = {"overview": ("Mercato: overview", overview()), "orders": ("Mercato: orders, money and stock", orders())}
    made |= {"events": ("Mercato: events", events()), "stores": ("Mercato: stores and neighbours", stores()), "edge": ("Mercato: edge", edge())}
    made |= {f"role-{name}": (f"Mercato: {name}", role(name, methods)) for name, methods in ROLES.items()}
    return {name: grafana(f"mercato-{name}", title, rows) for name, (title, rows) in made.items()}


def main():
    """Writes, compares or lists."""
    made = dashboards()
    if "--expressions" in sys.argv:
        for name, board in made.items():
            for found in board["panels"]:
                for target in found.get("targets", []):
                    print(json.dumps({"dashboard": name, "panel": found["title"], "expr": target["expr"]}))
        return
    HERE.mkdir(exist_ok=True)
    texts = {HERE / f"{name}.json": json.dumps(board, indent=1, ensure_ascii=False) + "\n" for name, board in made.items()}
    if "--check" in sys.argv:
        known = {path: path.read_text() for path in HERE.glob("*.json")}
        if known != texts:
            sys.exit("ops/grafana/dashboards is old: python3 ops/grafana/generate.py")
        return
    for path in HERE.glob("*.json"):
        path.unlink()
    for path, text in texts.items():
        path.write_text(text)


main()
