"""The causes of alerts: how each is made, which alerts it must raise, and which page's repair ends it."""

import contextlib
import dataclasses
import os
import pathlib
import re
import signal
import socket
import subprocess
import time
import typing
import urllib.parse
import uuid

from shop import ROOT, admin, part, pid, run, until


@contextlib.contextmanager
def away(name):
    """Kills a process; it runs again after the block."""
    part("kill", name)
    try:
        yield
    finally:
        part("start", name)


@contextlib.contextmanager
def silent_provider(shop):
    """The provider takes calls and does not answer for the time of the block; yields an order of that time."""
    os.kill(pid("provider"), signal.SIGSTOP)
    try:
        yield {"ORDER": shop.order("tok_approve")}
    finally:
        os.kill(pid("provider"), signal.SIGCONT)


@contextlib.contextmanager
def started_with(name, *prefix, **settings):
    """A process that was started with other settings, or by another command; started as usual after the block."""
    part("stop", name)
    run(*prefix, ROOT / "dev/part", "start", name, env=os.environ | settings)
    try:
        yield
    finally:
        part("restart", name)


def outbox(shop, role, topic, kind, payload, sequence=1):
    """Slips an event in that no code of ours wrote; its aggregate."""
    aggregate = str(uuid.uuid4())
    shop.sql(role, f"insert into outbox (shard, event_id, topic, kind, aggregate, sequence, payload) "
                   f"values (0, gen_random_uuid(), '{topic}', '{kind}', '{aggregate}', {sequence}, {payload})")
    return aggregate


@contextlib.contextmanager
def poisoned(shop, dead=False):
    """An event that cannot be applied; yields its aggregate."""
    aggregate = outbox(shop, "payment", "payments", "payment.authorized", "'\\x'::bytea")
    if dead:
        last = f"update parked set attempts = 11, next_at = now() where aggregate = '{aggregate}' returning 1"
        until("the event is parked", lambda: shop.sql("ordering", last))
    try:
        yield {"AGGREGATE": aggregate}
    finally:
        # tried again, it is parked again: whoever repaired with a retry has it there
        run("bash", "-c", '. ops/shell; parked ordering skip "$1"', "skip", aggregate, cwd=ROOT)


@contextlib.contextmanager
def too_large(shop):
    """An event that the broker never takes."""
    outbox(shop, "ordering", "orders", "order.created", "convert_to(repeat('x', 2000000), 'UTF8')")
    yield


@contextlib.contextmanager
def restarts(name):
    """Three starts in a row."""
    for _ in range(3):
        part("restart", name)
        time.sleep(4)
    yield


@contextlib.contextmanager
def paid_with(shop, means):
    """An order whose payment the provider answers in its own way."""
    yield {"ORDER": shop.order(means)}


@contextlib.contextmanager
def stray(shop):
    """A charge at the provider that is none of ours."""
    key, reference = str(uuid.uuid4()), str(uuid.uuid4())
    body = {"reference": reference, "amountMinor": 100, "currency": "EUR", "method": "credit_card", "token": "tok_approve"}
    shop.ask("POST", f"{shop.env['MERCATO_PROVIDER']}/v1/authorizations", body, idempotency_key=key)
    yield {"KEY": key, "REFERENCE": reference}


@contextlib.contextmanager
def overdue(shop):
    """A hold that is overdue and that nobody can end, because somebody locks the table."""
    hold = "insert into reservation (order_id, status, version, expires_at, created_at, updated_at) values (gen_random_uuid(), 'ACTIVE', 1, now() - interval '1 minute', now(), now());"
    with shop.session("inventory", f"commit; {hold} begin; lock table reservation in exclusive mode;"):
        yield


@contextlib.contextmanager
def few_descriptors(name):
    """A process that may open hardly more files than it has open."""
    number = pid(name)
    opened = len(os.listdir(f"/proc/{number}/fd"))
    run("prlimit", "--pid", number, f"--nofile={opened + 8}:")
    yield {"PID": number}


def resident(name):
    """What a process holds of the memory, in bytes."""
    return int(re.search(r"VmRSS:\s+(\d+) kB", pathlib.Path(f"/proc/{pid(name)}/status").read_text())[1]) * 1024


@contextlib.contextmanager
def little_memory(name):
    """A process in a control group that allows it hardly more memory than it uses. Needs root."""
    part("restart", name)
    time.sleep(10)
    first, second = pathlib.Path("/sys/fs/cgroup/memory"), pathlib.Path("/sys/fs/cgroup")
    base, file = (first, "memory.limit_in_bytes") if first.is_dir() else (second, "memory.max")
    group = base / f"mercato-drill-{os.getpid()}"
    group.mkdir()
    (group / file).write_text(str(resident(name) * 108 // 100))
    try:
        with started_with(name, "sh", "-c", f'echo $$ >{group}/cgroup.procs && exec "$@"', "sh"):
            yield
    finally:
        group.rmdir()


@contextlib.contextmanager
def small_pool(shop):
    """Customer may open two connections, somebody has whoever uses them wait, and new customers come."""
    with started_with("customer", MERCATO_DB_CONNECTIONS="2"), shop.session("customer", "lock table customer in access exclusive mode;"), shop.load():
        yield


@contextlib.contextmanager
def wrong_stock(shop):
    """A shelf that was changed past the ledger, which the next comparison finds."""
    (product,) = shop.sql("inventory", "select product_id from stock where warehouse_id = 'main' order by product_id limit 1")
    shop.sql("inventory", f"update stock set on_hand = on_hand + 1, available = available + 1 where product_id = '{product}' and warehouse_id = 'main'")
    (count,) = shop.sql("inventory", f"select sum(level_delta) from stock_ledger where product_id = '{product}' and warehouse_id = 'main'")
    yield {"PRODUCT": product, "COUNT": count}


@contextlib.contextmanager
def hesitating(shop):
    """Every eight seconds nobody can write an order for a moment: some answers are late, too few for a page."""
    script = "begin; lock table orders in exclusive mode; select pg_sleep(1.3); commit; select pg_sleep(6.7); " * 60
    command = [os.environ["PSQL"], "-X", "-q", "-d", shop.url("ordering")]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, text=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    child.stdin.write(script.replace("; ", ";\n"))
    child.stdin.flush()
    try:
        yield
    finally:
        child.kill()
        child.wait()


@contextlib.contextmanager
def crowded_edge(shop):
    """An Envoy with so little memory that it takes a hundred connections, nearly all of which are taken."""
    part("restart", "envoy", MERCATO_EDGE_MAX_HEAP_BYTES=str(1 << 26))
    door = urllib.parse.urlsplit(shop.env["MERCATO_URL"])
    try:
        with contextlib.ExitStack() as connections:
            for _ in range(82):
                connections.enter_context(socket.create_connection((door.hostname, door.port), timeout=20))
            yield
    finally:
        part("restart", "envoy")


@dataclasses.dataclass
class Cause:
    """How something goes wrong, and what follows."""

    make: typing.Callable
    alerts: list
    # words that pages leave to the reader
    values: dict = dataclasses.field(default_factory=dict)
    # the page whose repair is done, and which of its lines; the first alert's when none is named
    repair: str = ""
    lines: list = None
    # pages whose repair is done when the cause is gone
    afterwards: list = dataclasses.field(default_factory=list)
    # False: it stays for a time that no drill waits
    ends: bool = True


ORDERING = {"ROLE": "ordering"}
INVENTORY = {"ROLE": "inventory"}
PAYMENT = {"ROLE": "payment"}
LOCKED = "DatabasePoolUsedUp"

CAUSES = {
    # first, because what it raises stays for hours and must be there for no other reason
    "answers-late": Cause(hesitating, ["ErrorBudgetBurnsSlowly"], ORDERING, ends=False),
    "kafka-killed": Cause(lambda shop: away("kafka"), ["KafkaUnreachable", "OutboxStuck"], ORDERING),
    "leases-locked": Cause(lambda shop: shop.session("ordering", "select * from relay_lease for update;"), ["OutboxStuck"], ORDERING),
    "holds-locked": Cause(overdue, ["HoldsOverdue", "PeriodicWorkFails"], INVENTORY, repair=LOCKED),
    "steps-locked": Cause(lambda shop: shop.session("payment", "lock table work in exclusive mode;"), ["PaymentStepsOverdue"], PAYMENT, repair=LOCKED),
    "calls-limited": Cause(lambda shop: started_with("ordering", MERCATO_MAX_CALLS="1"), ["CallsShed"], ORDERING),
    "descriptors-limited": Cause(lambda shop: few_descriptors("customer"), ["FileDescriptorsNearLimit"]),
    "memory-limited": Cause(lambda shop: little_memory("catalog"), ["MemoryNearLimit"], {"ROLE": "catalog"}),
    # an executable whose consumers fall silent by mistake: services/chaos/README.md
    "consumer-deaf": Cause(
        lambda shop: started_with("catalog", MERCATO_BIN=os.environ["MERCATO_PLANTED_BIN"], MERCATO_PLANT="deaf"),
        ["ConsumerRestarts"],
        {"ROLE": "catalog"},
    ),
    "event-poisoned": Cause(poisoned, ["EventsParked"], ORDERING),
    "event-given-up": Cause(lambda shop: poisoned(shop, dead=True), ["DeadLetters"], ORDERING),
    "event-too-large": Cause(too_large, ["OutboxDead"], ORDERING, lines=[1]),
    "redis-killed": Cause(lambda shop: away("redis"), ["RedisFails"], ORDERING),
    "inventory-killed": Cause(lambda shop: away("inventory"), ["RoleDown", "RoleAbsent", "BreakerOpen", "ErrorBudgetBurnsFast", "EdgeErrors"], INVENTORY),
    "envoy-killed": Cause(lambda shop: away("envoy"), ["EdgeDown", "EdgeAbsent"]),
    "edge-crowded": Cause(crowded_edge, ["EdgeNearLimit"]),
    "orders-locked": Cause(
        lambda shop: shop.session("ordering", "lock table orders in access exclusive mode;"), ["DatabaseFails"], ORDERING, repair=LOCKED
    ),
    "pool-small": Cause(small_pool, [LOCKED], {"ROLE": "customer"}),
    "consumer-locked-out": Cause(
        lambda shop: shop.session("ordering", "lock table orders, parked in exclusive mode;"), ["ConsumerLag"], ORDERING, repair=LOCKED
    ),
    "provider-frozen": Cause(
        silent_provider, ["PaymentProviderFails", "PaymentUnknown", "OrdersStuck"], PAYMENT, lines=[], afterwards=["PaymentUnknown", "OrdersStuck"]
    ),
    "capture-fails": Cause(lambda shop: paid_with(shop, "tok_capture_fails-99"), ["PaymentCasesOpen"], PAYMENT),
    "amount-wrong": Cause(lambda shop: paid_with(shop, "tok_wrong_amount"), ["PaymentAnswerMismatch"], PAYMENT),
    "stock-changed-by-hand": Cause(wrong_stock, ["InventoryLedgerDiffers"], INVENTORY),
    "catalog-restarted": Cause(lambda shop: restarts("catalog"), ["RoleRestarts"], {"ROLE": "catalog"}),
    "charge-unknown-to-us": Cause(stray, ["PaymentLedgerDiffers"], PAYMENT),
}
