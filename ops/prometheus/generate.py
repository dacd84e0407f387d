#!/usr/bin/env python3
"""Makes rules/slo.yaml: generate.py [--check]. A promise is a row of PROMISES; every window of it is one recording rule."""

import pathlib
import sys

PATH = pathlib.Path(__file__).parent / "rules/slo.yaml"

PLACE = {"ordering.v1.OrderService": ["PlaceOrder"]}
READ = {
    "catalog.v1.ProductService": ["GetProduct", "ListProducts", "ListCategories"],
    "inventory.v1.StockService": ["GetStock"],
    "ordering.v1.OrderService": ["GetOrder", "ListOrders", "GetOrderTimeline"],
}
SIGN_IN = {"customer.v1.AuthService": ["Login", "RefreshToken", "Logout"], "customer.v1.CustomerService": ["RegisterCustomer"]}

# name, what is promised, share that may fail, methods, and seconds within which the answer must come where that is the promise
PROMISES = [
    ("place-order", "An order is taken, or refused for a reason: 99.9 %.", "0.001", PLACE, None),
    ("place-order-in-time", "The answer to an order comes within half a second: 99 %.", "0.01", PLACE, "0.5"),
    ("read", "Products, stock and orders can be read: 99.9 %.", "0.001", READ, None),
    ("sign-in", "Signing up, in and out works: 99.9 %.", "0.001", SIGN_IN, None),
]
WINDOWS = {"30s": ["5m", "30m", "1h", "6h"], "2m": ["3d"]}

HEAD = """\
# Made by ops/prometheus/generate.py. Promises to customers, and how fast their error budgets are used up. A burn of 1 uses the budget up in
# exactly 30 days; one of 14.4 uses 2 % of it in an hour, one of 6 uses 5 % in six hours, one of 1 uses 10 % in three days. An error is a
# call that ended by our fault, never a refusal: a sign-in that is throttled is none.
groups:
"""

ALERTS = """\
  - name: mercato-slo-alerts
    rules:
      # one failure in a quiet hour is no trend: five are asked for
      - alert: ErrorBudgetBurnsFast
        expr: |
          mercato:slo_burn:rate1h > 14.4 and mercato:slo_burn:rate5m > 14.4
          and mercato:slo_faults:increase1h > 5
        for: 1m
        labels: { severity: page }
        annotations:
          summary: "{{ $labels.namespace }}: {{ $labels.slo }}: errors use up 30 days' budget {{ $value | humanize }} times as fast as they may"
          runbook_url: docs/runbooks/ErrorBudgetBurnsFast.md
      - alert: ErrorBudgetBurnsSlowly
        expr: |
          (mercato:slo_burn:rate6h > 6 and mercato:slo_burn:rate30m > 6 and mercato:slo_faults:increase6h > 5)
          or (mercato:slo_burn:rate3d > 1 and mercato:slo_burn:rate6h > 1 and mercato:slo_faults:increase6h > 5)
        for: 5m
        labels: { severity: ticket }
        annotations:
          summary: "{{ $labels.namespace }}: {{ $labels.slo }}: errors use up 30 days' budget {{ $value | humanize }} times as fast as they may"
          runbook_url: docs/runbooks/ErrorBudgetBurnsSlowly.md
"""


def total(function, metric, methods, window, more=""):
    """A sum for each shop, a service on each line."""
    of_service = [f'/mercato.{service}/({"|".join(names)})' for service, names in methods.items()]
    parts = [f'{function}({metric}{{method=~"{name}"{more}}}[{window}])' for name in of_service]
    return "sum by (namespace) (\n  " + "\n  or ".join(parts) + "\n)"


def rule(record, slo, lines):
    """A recording rule as it stands in the file."""
    text = "".join(f"          {line}\n" for line in "\n".join(lines).split("\n"))
    return f"      - record: {record}\n        labels: {{ slo: {slo} }}\n        expr: |\n{text}"


def faults(function, methods, seconds, window):
    """What broke the promise; 0 where nothing did."""
    if seconds:
        in_time = total(function, "mercato_rpc_duration_seconds_bucket", methods, window, f',le="{seconds}"')
        return [total(function, "mercato_rpc_duration_seconds_count", methods, window), f"- {in_time}"]
    calls = "mercato_rpc_calls_total"
    return [total(function, calls, methods, window, ',fault="ours"'), f"or 0 * {total(function, calls, methods, window)}"]


def burn(slo, allowed, methods, seconds, window):
    """How many times as fast as allowed the budget is used up over a window."""
    calls = total("rate", "mercato_rpc_duration_seconds_count" if seconds else "mercato_rpc_calls_total", methods, window)
    lines = ["(", *faults("rate", methods, seconds, window), ")", f"/ ({calls} > 0) / {allowed}"]
    return rule(f"mercato:slo_burn:rate{window}", slo, lines)


def made():
    """The file."""
    text = HEAD
    for interval, windows in WINDOWS.items():
        text += f"  - name: mercato-slo-{'-'.join(windows)}\n    interval: {interval}\n    rules:\n"
        for slo, promise, allowed, methods, seconds in PROMISES:
            text += f"      # {promise}\n"
            for window in windows:
                text += burn(slo, allowed, methods, seconds, window)
                if window in ("1h", "6h"):
                    text += rule(f"mercato:slo_faults:increase{window}", slo, faults("increase", methods, seconds, window))
    return text + ALERTS


if __name__ == "__main__":
    if "--check" not in sys.argv:
        PATH.write_text(made())
    elif PATH.read_text() != made():
        sys.exit("ops/prometheus/rules/slo.yaml is old: python3 ops/prometheus/generate.py")
