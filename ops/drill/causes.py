#!/usr/bin/env python3
"""drill.py: makes the causes of alerts in a shop started by dev/drill-alerts, which see; each must fire and end."""

import argparse
import contextlib
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time
import urllib.parse
import urllib.request
import uuid

ROOT = pathlib.Path(__file__).resolve().parent.parent
STATE = pathlib.Path(os.environ["MERCATO_STATE"])
FACTOR = 10
PATIENCE = 240


def run(*command, **options):
    """A command that must succeed; what it says goes to the log."""
    with open(STATE / "logs" / "drill.log", "ab") as log:
        subprocess.run([str(part) for part in command], check=True, stdout=log, stderr=log, **options)


def part(verb, *names):
    """Starts, stops or kills processes of the shop."""
    run(ROOT / "dev/part", verb, *names)


class Shop:
    """The shop's doors."""

    def __init__(self, env):
        with open(env, encoding="utf-8") as file:
            self.env = dict(line.strip().split("=", 1) for line in file if "=" in line)
        self.env_file = env
        self.token = None

    def url(self, role):
        """A role's database."""
        return self.env["DATABASE_URL"].rsplit("/", 1)[0] + f"/mercato_{role}"

    def sql(self, role, text):
        """Runs statements and returns the first column as lines."""
        done = subprocess.run([os.environ["PSQL"], "-X", "-qAt", "-v", "ON_ERROR_STOP=1", "-d", self.url(role), "-c", text], check=True, capture_output=True, text=True)
        return done.stdout.split()

    @contextlib.contextmanager
    def session(self, role, text):
        """Leaves a transaction open for the time of the block; then whoever blocks others is found and ended, as the runbooks say."""
        child = subprocess.Popen([os.environ["PSQL"], "-X", "-q", "-d", self.url(role)], stdin=subprocess.PIPE, text=True, stdout=subprocess.DEVNULL)
        child.stdin.write(f"set idle_in_transaction_session_timeout = 0;\nbegin;\n{text}\n")
        child.stdin.flush()
        blockers = "select pid from pg_stat_activity where pid in (select unnest(pg_blocking_pids(pid)) from pg_stat_activity) and application_name = 'psql'"
        try:
            yield
        finally:
            # somebody waits for a lock only now and then
            found = until("a session that blocks others", lambda: self.sql(role, f"select pg_terminate_backend(pid) from ({blockers}) b"), 20)
            print(f"    the session that blocked others was {'found and ended' if found is not None else 'not found'}", flush=True)
            with contextlib.suppress(OSError):
                child.stdin.close()
            child.wait(timeout=30)

    @contextlib.contextmanager
    def load(self, rate=10, token=None):
        """Orders for the time of the block."""
        command = [sys.executable, ROOT / "ops/load.py", "--env", self.env_file, "--seconds", "100000", "--rate", str(rate)]
        child = subprocess.Popen(command + (["--token", token] if token else []), stdout=subprocess.DEVNULL)
        try:
            yield
        finally:
            child.terminate()
            child.wait()

    def post(self, url, body, **headers):
        """A request that must be answered well."""
        headers = {"content-type": "application/json"} | {name.replace("_", "-"): value for name, value in headers.items()}
        request = urllib.request.Request(url, json.dumps(body).encode(), headers)
        with urllib.request.urlopen(request, timeout=20) as answer:
            return json.load(answer)

    def order(self, means):
        """One order of the development customer; its id."""
        edge = self.env["MERCATO_URL"]
        if self.token is None:
            login = {"email": self.env["CUSTOMER_EMAIL"], "password": self.env["CUSTOMER_PASSWORD"]}
            self.token = self.post(f"{edge}/auth/login", login)["access_token"]
        with urllib.request.urlopen(f"{edge}/api/products?pageSize=1", timeout=20) as answer:
            product = json.load(answer)["products"][0]["id"]
        address = {"street": "Hauptstrasse 5", "city": "Koeln", "state": "NW", "zipCode": "50667"}
        body = {"items": [{"productId": product, "quantity": 1}], "shippingAddress": address, "paymentMethod": "credit_card", "paymentToken": means}
        return self.post(f"{edge}/api/orders", body, authorization=f"Bearer {self.token}", idempotency_key=str(uuid.uuid4()))["id"]


class Prometheus:
    """What fires."""

    def __init__(self, base):
        self.base = base

    def get(self, path, **query):
        """The data of an answer."""
        with urllib.request.urlopen(f"{self.base}{path}?{urllib.parse.urlencode(query)}", timeout=20) as answer:
            return json.load(answer)["data"]

    def firing(self):
        """The names of the alerts that fire."""
        return {alert["labels"]["alertname"] for alert in self.get("/api/v1/alerts")["alerts"] if alert["state"] == "firing"}

    def fired(self, seconds):
        """The names of the alerts that fired in that time."""
        found = self.get("/api/v1/query", query=f'count by (alertname) (count_over_time(ALERTS{{alertstate="firing"}}[{int(seconds)}s]))')
        return {entry["metric"]["alertname"] for entry in found["result"]}

    def pending(self, seconds):
        """The names of the alerts that were about to fire in that time."""
        found = self.get("/api/v1/query", query=f'count by (alertname) (count_over_time(ALERTS{{alertstate="pending"}}[{int(seconds)}s]))')
        return {entry["metric"]["alertname"] for entry in found["result"]}


def scaled(text):
    """The rules with a tenth of every window, wait and age."""
    units = {"s": 1, "m": 60, "h": 3600}

    def shorter(found):
        return f"{found[1]}{max(1, int(found[2]) * units[found[3]] // FACTOR)}s{found[4]}"

    text = re.sub(r"(\[)(\d+)([smh])(\])", shorter, text)
    text = re.sub(r"(for: |interval: )(\d+)([smh])()", lambda f: f"{f[1]}0s" if f[2] == "0" else shorter(f), text)
    return re.sub(r"(_seconds\)?) > (\d+)", lambda f: f"{f[1]} > {int(f[2]) // FACTOR}", text)


def until(what, condition, patience=PATIENCE):
    """Seconds until the condition held; none when it never did."""
    began = time.monotonic()
    while time.monotonic() - began < patience:
        with contextlib.suppress(OSError):
            if condition():
                return time.monotonic() - began
        time.sleep(0.5)
    print(f"    {what}: not within {patience} s", flush=True)
    return None


def frozen(shop, name):
    """Freezes a process for the time of the block."""
    pid = int((STATE / "run" / f"{name}.pid").read_text())

    @contextlib.contextmanager
    def inner():
        os.kill(pid, 19)
        try:
            yield
        finally:
            os.kill(pid, 18)

    return inner()


@contextlib.contextmanager
def away(name):
    """Kills a process, and starts it again after the block."""
    part("kill", name)
    try:
        yield
    finally:
        part("start", name)


def outbox(shop, role, topic, kind, payload, sequence=1):
    """Slips an event in that no code of ours wrote; its aggregate."""
    aggregate = str(uuid.uuid4())
    shop.sql(role, f"insert into outbox (shard, event_id, topic, kind, aggregate, sequence, payload) "
                   f"values (0, gen_random_uuid(), '{topic}', '{kind}', '{aggregate}', {sequence}, {payload})")
    return aggregate


@contextlib.contextmanager
def poisoned(shop, dead=False):
    """An event that cannot be applied; afterwards an operator skips it."""
    aggregate = outbox(shop, "payment", "payments", "payment.authorized", "'\\x'::bytea")
    if dead:
        def last():
            done = shop.sql("ordering", f"update parked set attempts = 11, next_at = now() where aggregate = '{aggregate}' returning 1")
            return bool(done)
        until("the event is parked", last)
    try:
        yield
    finally:
        run(ROOT / "ops/parked", "ordering", env=os.environ | {"DATABASE_URL": shop.env["DATABASE_URL"]})
        run(ROOT / "ops/parked", "ordering", "skip", aggregate, env=os.environ | {"DATABASE_URL": shop.env["DATABASE_URL"]})


@contextlib.contextmanager
def too_large(shop):
    """An event that the broker never takes."""
    outbox(shop, "ordering", "orders", "order.created", "convert_to(repeat('x', 2000000), 'UTF8')")
    try:
        yield
    finally:
        shop.sql("ordering", "delete from outbox_dead")


@contextlib.contextmanager
def restarts(name):
    """Three starts in a row."""
    for _ in range(3):
        part("stop", name)
        part("start", name)
        time.sleep(4)
    yield


@contextlib.contextmanager
def wrong_amount(shop):
    """A payment of which the provider holds another amount than was asked for; afterwards its order is cancelled."""
    order = shop.order("tok_wrong_amount")
    try:
        yield
    finally:
        headers = {"authorization": f"Bearer {shop.token}", "idempotency_key": str(uuid.uuid4())}
        shop.post(f"{shop.env['MERCATO_URL']}/api/orders/{order}:cancel", {}, **headers)


@contextlib.contextmanager
def case(shop):
    """A capture that the provider refuses until a person is asked; afterwards the person has seen to it."""
    shop.order("tok_capture_fails-99")
    try:
        yield
    finally:
        shop.sql("payment", "update operator_case set closed_at = clock_timestamp() where closed_at is null")


@contextlib.contextmanager
def stray(shop):
    """A charge at the provider that is none of ours."""
    body = {"reference": str(uuid.uuid4()), "amountMinor": 100, "currency": "EUR", "method": "credit_card", "token": "tok_approve"}
    shop.post(f"{shop.env['MERCATO_PROVIDER']}/v1/authorizations", body, idempotency_key=str(uuid.uuid4()))
    yield


def overdue(shop):
    """A hold that is overdue and that nobody can end, because somebody locks the table."""
    hold = "insert into reservation (order_id, status, version, expires_at, created_at, updated_at) values (gen_random_uuid(), 'ACTIVE', 1, now() - interval '1 minute', now(), now());"
    return shop.session("inventory", f"commit; {hold} begin; lock table reservation in exclusive mode;")


@contextlib.contextmanager
def limited():
    """A process that may do one call at a time; afterwards it is started with its usual limit."""
    part("stop", "ordering")
    run(ROOT / "dev/part", "start", "ordering", env=os.environ | {"MERCATO_MAX_CALLS": "1"})
    try:
        yield
    finally:
        part("stop", "ordering")
        part("start", "ordering")


@contextlib.contextmanager
def few_descriptors(name):
    """A process that may open hardly more files than it has open; afterwards its limit is raised."""
    pid = (STATE / "run" / f"{name}.pid").read_text().strip()
    opened = len(os.listdir(f"/proc/{pid}/fd"))
    limits = pathlib.Path(f"/proc/{pid}/limits").read_text()
    before = re.search(r"Max open files +(\d+)", limits)[1]
    run("prlimit", "--pid", pid, f"--nofile={opened + 8}:")
    try:
        yield
    finally:
        run("prlimit", "--pid", pid, f"--nofile={before}:")


@contextlib.contextmanager
def wrong_stock(shop):
    """A shelf that was changed past the ledger, which the next comparison finds; afterwards it is as it was."""
    (product,) = shop.sql("inventory", "select product_id from stock order by product_id limit 1")
    shop.sql("inventory", f"update stock set on_hand = on_hand + 1, available = available + 1 where product_id = '{product}'")
    try:
        yield
    finally:
        shop.sql("inventory", "update stock s set on_hand = l.level, available = l.available from (select product_id, warehouse_id, "
                 "sum(level_delta) as level, sum(available_delta) as available from stock_ledger group by 1, 2) l "
                 f"where s.product_id = '{product}' and (s.product_id, s.warehouse_id) = (l.product_id, l.warehouse_id)")


# name: what is done, the alerts that must fire, whether they end once it is undone
CAUSES = {
    "kafka-killed": (lambda shop: away("kafka"), ["KafkaUnreachable", "OutboxStuck"], True),
    "leases-locked": (lambda shop: shop.session("ordering", "select * from relay_lease for update;"), ["OutboxStuck"], True),
    "holds-locked": (lambda shop: overdue(shop), ["HoldsOverdue"], True),
    "steps-locked": (lambda shop: shop.session("payment", "lock table work in exclusive mode;"), ["PaymentStepsOverdue"], True),
    "calls-limited": (lambda shop: limited(), ["CallsShed"], True),
    "descriptors-limited": (lambda shop: few_descriptors("customer"), ["FileDescriptorsNearLimit"], True),
    "event-poisoned": (lambda shop: poisoned(shop), ["EventsParked"], True),
    "event-given-up": (lambda shop: poisoned(shop, dead=True), ["DeadLetters"], True),
    "event-too-large": (lambda shop: too_large(shop), ["OutboxDead"], True),
    "redis-killed": (lambda shop: away("redis"), ["RedisFails"], True),
    "inventory-killed": (lambda shop: away("inventory"), ["RoleDown", "BreakerOpen", "ErrorBudgetBurnsFast", "EdgeErrors"], True),
    "envoy-killed": (lambda shop: away("envoy"), ["EdgeDown"], True),
    "orders-locked": (
        lambda shop: shop.session("ordering", "lock table orders in access exclusive mode;"),
        ["DatabasePoolUsedUp", "DatabaseFails"],
        True,
    ),
    "consumer-locked-out": (lambda shop: shop.session("ordering", "lock table orders, parked in exclusive mode;"), ["ConsumerLag"], True),
    "provider-frozen": (lambda shop: frozen(shop, "provider"), ["PaymentProviderFails", "PaymentUnknown", "OrdersStuck"], True),
    "capture-fails": (lambda shop: case(shop), ["PaymentCasesOpen"], True),
    "amount-wrong": (lambda shop: wrong_amount(shop), ["PaymentAnswerMismatch"], True),
    "stock-changed-by-hand": (lambda shop: wrong_stock(shop), ["InventoryLedgerDiffers"], True),
    "catalog-restarted": (lambda shop: restarts("catalog"), ["RoleRestarts"], True),
    # last, because the charge stays
    "charge-unknown-to-us": (lambda shop: stray(shop), ["PaymentLedgerDiffers"], False),
}


def calm(shop, prometheus, seconds):
    """Orders and silence."""
    with shop.load():
        time.sleep(seconds)
    fired, pending = prometheus.fired(seconds), prometheus.pending(seconds)
    print(f"healthy load, {seconds} s, real rules: fired {', '.join(sorted(fired)) or 'nothing'}; pending for a while {', '.join(sorted(pending)) or 'nothing'}", flush=True)
    return not fired


def rehearse(shop, prometheus, name):
    """One cause; whether all its alerts fired and ended."""
    make, wanted, ends = CAUSES[name]
    ok, took, also = True, {}, set()
    with make(shop):
        began = time.monotonic()

        def seen():
            now = prometheus.firing()
            also.update(now - set(wanted))
            for alert in now & set(wanted):
                took.setdefault(alert, time.monotonic() - began)
            return len(took) == len(wanted)

        ok = until(f"{name}: {', '.join(wanted)}", seen) is not None
    silent = until(f"{name}: silence", lambda: not prometheus.firing() & set(wanted)) if ends else None
    told = ", ".join(f"{alert} {took[alert]:.0f} s" if alert in took else f"{alert} NEVER" for alert in wanted)
    end = "stays" if not ends else "NEVER" if silent is None else f"{silent:.0f} s"
    print(f"| {name} | {told} | {end} | {', '.join(sorted(also)) or '-'} |", flush=True)
    until("all is silent", lambda: not prometheus.firing() or not ends, 60)
    return ok and (silent is not None or not ends)


def main():
    """The calm part, then the causes."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was done is undone
    parser = argparse.ArgumentParser()
    parser.add_argument("--env", required=True)
    parser.add_argument("--prometheus", required=True)
    parser.add_argument("--calm", type=float, required=True)
    parser.add_argument("--causes", default="all")
    options = parser.parse_args()
    shop, prometheus = Shop(options.env), Prometheus(options.prometheus)
    names = {"all": list(CAUSES), "none": []}.get(options.causes, options.causes.split())
    good = calm(shop, prometheus, options.calm) if options.calm > 0 else True
    if not names:
        sys.exit(not good)
    rules = STATE / "rules"
    rules.mkdir(exist_ok=True)
    for path in (ROOT / "ops/prometheus/rules").glob("*.yaml"):
        (rules / path.name).write_text(scaled(path.read_text()))
    part_of = os.environ | {"MERCATO_RULES": str(rules), "MERCATO_SCRAPE_SECONDS": "1"}
    run("bash", "-c", f". {ROOT}/dev/parts.sh && stop prometheus && rm -rf \"$(workplace prometheus)/data\"")
    run(ROOT / "dev/observe", env=part_of)
    print("| cause | fires after | ends after | also fired |\n|---|---|---|---|", flush=True)
    with shop.load():
        time.sleep(30)
        results = [rehearse(shop, prometheus, name) for name in names]
    sys.exit(not (good and all(results)))


main()
