#!/usr/bin/env python3
"""names.py: every metric that a rule, a dashboard or a runbook page asks for exists and has the labels it is asked with, and
every metric that exists is looked at somewhere. Misspelt, an alert never fires and a panel is empty; nobody would notice."""

import json
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
# of Prometheus itself, and of its targets; the latter are what the chart's ServiceMonitor and dev/observe set
FOREIGN = {"up": set(), "ALERTS": {"alertname", "alertstate", "severity"}}
TARGET = {"namespace", "component", "pod", "instance", "job"}
# Envoy's, as far as we look at them; dev/observe --verify asks a real one
ENVOY = {
    "envoy_cluster_membership_healthy": {"envoy_cluster_name"},
    "envoy_cluster_upstream_rq": {"envoy_cluster_name", "envoy_response_code"},
    "envoy_cluster_upstream_rq_retry": {"envoy_cluster_name"},
    "envoy_cluster_upstream_rq_rx_reset": {"envoy_cluster_name"},
    "envoy_cluster_upstream_rq_timeout": {"envoy_cluster_name"},
    "envoy_cluster_upstream_rq_xx": {"envoy_cluster_name", "envoy_response_code_class"},
    "envoy_http_downstream_cx_active": {"envoy_http_conn_manager_prefix"},
    "envoy_http_downstream_rq_active": {"envoy_http_conn_manager_prefix"},
    "envoy_http_downstream_rq_time_bucket": {"envoy_http_conn_manager_prefix", "le"},
    "envoy_http_downstream_rq_xx": {"envoy_http_conn_manager_prefix", "envoy_response_code_class"},
    "envoy_listener_downstream_global_cx_overflow": {"envoy_listener_address"},
    "envoy_overload_envoy_resource_monitors_fixed_heap_pressure": set(),
    "envoy_overload_envoy_resource_monitors_global_downstream_max_connections_pressure": set(),
    "envoy_server_memory_allocated": set(),
    "envoy_server_uptime": set(),
}
LISTS = {"by", "without", "on", "ignoring", "group_left", "group_right"}
WORDS = LISTS | {"and", "or", "unless", "bool", "offset"}
DEFINED = re.compile(r"^\| `(\w+)` \| (\w+) \| (.*?) \| ", re.MULTILINE)
TOKEN = re.compile(r"\"[^\"]*\"|[a-zA-Z_:][\w:]*|\d[\w.]*|=~|!~|!=|\S")


def defined():
    """Labels of our series by name, and the name of the metric that each is a part of."""
    labels, parts = {}, {}
    for name, kind, told in DEFINED.findall((ROOT / "docs/metrics.md").read_text()):
        own = set(re.findall(r"`(\w+)`", told))
        for end in ("_bucket", "_sum", "_count") if kind == "histogram" else ("",):
            labels[name + end] = own | ({"le"} if end == "_bucket" else set())
            parts[name + end] = name
    return labels, parts


def rules():
    """Expressions of the rules, and the names of what they record with its labels."""
    expressions, records = [], {}
    for path in sorted((ROOT / "ops/prometheus/rules").glob("*.yaml")):
        text = path.read_text()
        records |= {name: {"slo"} for name in re.findall(r"- record: (\S+)", text)}
        for block, line in re.findall(r"expr: (?:\|\n((?:          .*\n)+)|(.+))", text):
            expressions.append((path.name, block or line.strip().strip("'")))
    return expressions, records


def dashboards():
    """Expressions of the dashboards."""
    command = [sys.executable, "-B", ROOT / "ops/grafana/generate.py", "--expressions"]
    listed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    entries = [json.loads(line) for line in listed.splitlines()]
    return [(f"{entry['dashboard']}, {entry['panel']}", entry["expr"]) for entry in entries]


def pages():
    """Expressions of the runbook pages."""
    found = []
    for path in sorted(path for path in (ROOT / "docs/runbooks").glob("*.md") if path.name != "README.md"):
        found += [(path.name, line.partition("# Prometheus")[0]) for line in path.read_text().splitlines() if "# Prometheus" in line]
    return [(where, expression) for where, expression in found if expression.strip(" `")]


def matchers(tokens):
    """The matchers between braces, of which the opening one is read: values by label."""
    inside = tokens[: tokens.index("}")]
    del tokens[: len(inside) + 1]
    return {inside[i]: inside[i + 2].strip('"') for i in range(0, len(inside), 4)}


def asked(expression):
    """What an expression asks for: series as pairs of a name, or the pattern of one, and labels; and the labels it groups by."""
    tokens, series, grouped = TOKEN.findall(expression), [], set()
    while tokens:
        token = tokens.pop(0)
        after = tokens[0] if tokens else ""
        if token in LISTS and after == "(":
            end = tokens.index(")")
            grouped |= set(tokens[1:end]) - {","}
            del tokens[: end + 1]
        elif token == "[":
            del tokens[: tokens.index("]") + 1]
        elif token == "{":
            labels = matchers(tokens)
            series.append((labels.pop("__name__"), set(labels)))
        elif re.match(r"[a-zA-Z_:]", token) and token not in WORDS and after not in ("(", "by", "without"):
            braces = after == "{" and tokens.pop(0)
            series.append((token, set(matchers(tokens)) if braces else set()))
    return series, grouped


def faults(expressions, known):
    """What is asked for and does not exist."""
    found = []
    for where, expression in expressions:
        series, grouped = asked(expression)
        possible = set(TARGET)
        for name, labels in series:
            fitting = [known[one] for one in known if re.fullmatch(name, one)]
            if not fitting:
                found.append(f"{where}: there is no metric {name}")
                continue
            own = set.union(*fitting) | TARGET
            possible |= own
            found += [f"{where}: {name} has no label {label}" for label in sorted(labels - own)]
        if series:
            found += [f"{where}: nothing in it has the label {label}" for label in sorted(grouped - possible)]
    return found


def methods(expressions, contracts):
    """Methods of rules that no contract has."""
    found = set()
    for where, expression in expressions:
        for service, names in re.findall(r"/mercato\.([\w.]+)/\(([\w|]+)\)", expression):
            found |= {f"{where}: there is no method {service}/{name}" for name in names.split("|") if (service, name) not in contracts}
    return sorted(found)


def contracts():
    """Every service with every method of it."""
    found = set()
    for path in (ROOT / "proto/mercato").rglob("*.proto"):
        package = ".".join(path.relative_to(ROOT / "proto/mercato").parts[:-1])
        for service, body in re.findall(r"^service (\w+) \{(.*?)^\}", path.read_text(), re.MULTILINE | re.DOTALL):
            found |= {(f"{package}.{service}", name) for name in re.findall(r"^  rpc (\w+)\(", body, re.MULTILINE)}
    return found


def self_test(known):
    """Planted mistakes, each of which must be found."""
    for planted in [
        'sum by (namespace) (rate(mercato_rcp_calls_total{fault="ours"}[5m])) or vector(0)',
        'rate(mercato_rpc_calls_total{blame="ours"}[5m])',
        "sum by (namespace, mehtod) (rate(mercato_rpc_calls_total[5m]))",
        "max by (task) (mercato_job_interval_second) * 3",
        "mercato_rpc_duration_seconds",
        'rate({__name__=~"mercato_(rcp|btach)_shed_total"}[5m])',
        "upp == 0",
    ]:
        if not faults([("planted", planted)], known):
            sys.exit(f"not found: {planted}")
    if not methods([("planted", "/mercato.ordering.v1.OrderService/(PlaceOrder|PlaceOder)")], contracts()):
        sys.exit("a misspelt method was not found")
    good = 'sum by (namespace, method) (rate(mercato_rpc_calls_total{fault="ours",job="mercato"}[5m])) > 3 * 1e3 or vector(0)'
    if wrong := faults([("good", good)], known):
        sys.exit(f"found where nothing is wrong: {wrong}")


def main():
    """Compares what is asked for with what there is."""
    labels, parts = defined()
    expressions, records = rules()
    known = labels | records | FOREIGN | ENVOY
    self_test(known)
    looked_at = expressions + dashboards()
    wrong = faults(looked_at + pages(), known) + methods(expressions, contracts())
    names = {name for _, expression in looked_at for name, _ in asked(expression)[0]}
    seen = {parts[one] for name in names for one in parts if re.fullmatch(name, one)}
    wrong += [f"no rule and no dashboard looks at {name}" for name in sorted(set(parts.values()) - seen)]
    used = {one for name in names for one in ENVOY if re.fullmatch(name, one)} | {name for _, e in pages() for name, _ in asked(e)[0]}
    wrong += [f"ops/names.py knows {name}, which nothing asks for" for name in sorted(set(ENVOY) - used)]
    sys.exit("\n".join(wrong) if wrong else 0)


main()
