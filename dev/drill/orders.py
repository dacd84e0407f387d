"""Orders for the drills: places them, asks for them again, and says what became of them.

orders.py place FILE PHASE COUNT   places orders as the development customer and appends each acknowledged one to FILE
orders.py again FILE PHASE SHARE   every SHAREth order of a phase is asked for again, with its first key, as a customer would who is not sure
orders.py await FILE               waits until every order that the shop knows has come to its end
orders.py report FILE LOST LOG [kept]
                                   compares FILE, the shop, the provider's ledger, the list of lost events and what payment's reconciler wrote
                                   into the shop's log; exit code 1 on a broken promise. `kept`: the broker's log was, so LOST names every order
                                   that is gone

Addresses and logins come from the environment, as dev.env has them.
"""

import json
import os
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

SHOP, PROVIDER = os.environ["MERCATO_URL"], os.environ["MERCATO_PROVIDER"]
# what customers pay with: most simply pay, some make the provider slow or forgetful
TOKENS = ["tok_approve", "tok_approve", "tok_approve", "tok_slow", "tok_decline", "tok_timeout_after_charge"]
PATIENCE = 300


def ask(url, body=None, headers=None):
    """Status and body of one request; 0 when nobody answered."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"content-type": "application/json", **(headers or {})})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, json.loads(answer.read() or b"{}")
    except urllib.error.HTTPError as error:
        text = error.read()
        return error.code, json.loads(text) if text.startswith(b"{") else {}
    except OSError:
        return 0, {}


def insist(url, body=None, headers=None):
    """The same until there is a definite answer: on a busy machine a shop that has just started is slow."""
    until = time.monotonic() + PATIENCE
    while True:
        status, answer = ask(url, body, headers)
        if status not in (0, 408, 409, 429, 500, 502, 503, 504):
            return status, answer
        if time.monotonic() > until:
            sys.exit(f"{url} gives no answer: {status} {answer}")
        time.sleep(0.3)


def login():
    credentials = {"email": os.environ["CUSTOMER_EMAIL"], "password": os.environ["CUSTOMER_PASSWORD"]}
    status, answer = insist(f"{SHOP}/auth/login", credentials)
    if status != 200:
        sys.exit(f"no login: {status} {answer}")
    return {"authorization": f"Bearer {answer['access_token']}"}


def place(order, token):
    """Asks with the order's key until there is a definite answer; the order's id."""
    status, answer = insist(f"{SHOP}/api/orders", order["body"], {"idempotency-key": order["key"], **token})
    if status not in (200, 201):
        sys.exit(f"an order is refused: {status} {answer}")
    return answer["id"]


def read(path):
    if not os.path.exists(path):
        return []
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def cmd_place(path, phase, count):
    token = login()
    _, page = insist(f"{SHOP}/api/products?pageSize=20")
    products = [product["id"] for product in page["products"]]
    address = {"street": "Hauptstrasse 5", "city": "Koeln", "state": "NW", "zipCode": "50667"}

    def one(nth):
        items = [{"productId": products[nth % len(products)], "quantity": 1}]
        body = {"items": items, "shippingAddress": address, "paymentMethod": "credit_card", "paymentToken": TOKENS[nth % len(TOKENS)]}
        order = {"key": str(uuid.uuid4()), "phase": phase, "token": body["paymentToken"], "body": body}
        order["id"] = place(order, token)
        with open(path, "a", encoding="utf-8") as file:
            file.write(json.dumps(order) + "\n")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(one, range(int(count))))


def cmd_again(path, phase, share):
    token = login()
    chosen = [order for order in read(path) if order["phase"] == phase][:: int(share)]
    for order in chosen:
        found = place(order, token)
        if found != order["id"]:
            sys.exit(f"the order {order['id']} became {found} when it was asked for again")
    with open(path, "a", encoding="utf-8") as file:
        for order in chosen:
            file.write(json.dumps({**order, "phase": f"{phase}, again"}) + "\n")
    print(f"{len(chosen)} orders asked for again, each got its first id")


def look(order_id, token):
    status, answer = insist(f"{SHOP}/api/orders/{order_id}", headers=token)
    return answer if status == 200 else None if status == 404 else {"status": f"HTTP {status}"}


def ended(order):
    state, money = order.get("status"), order.get("paymentStatus")
    return state in ("PAID", "COMPLETED") or (state == "CANCELLED" and money not in ("PAYMENT_PENDING", "PAYMENT_AUTHORIZED", "PAYMENT_UNKNOWN"))


def cmd_await(path):
    token, until = login(), time.monotonic() + PATIENCE
    waiting = sorted({order["id"] for order in read(path)})
    while waiting:
        found = {order_id: look(order_id, token) for order_id in waiting}
        waiting = [order_id for order_id, order in found.items() if order is not None and not ended(order)]
        if waiting and time.monotonic() > until:
            sys.exit(f"{len(waiting)} orders do not end, such as {waiting[0]}: {found[waiting[0]]}")
        time.sleep(1)


def ledger():
    """Everything the provider has done, by the order's id."""
    done, after = {}, 0
    while True:
        _, page = insist(f"{PROVIDER}/v1/ledger?after={after}&limit=1000")
        entries = page.get("entries", [])
        if not entries:
            return done
        for entry in entries:
            done.setdefault(entry["key"].split(":")[0], []).append(entry)
        after = entries[-1]["sequence"]


def named(path):
    """The orders whose money the reconciler has found in the provider's books alone."""
    with open(path, encoding="utf-8") as file:
        lines = [line for line in file if "our ledger differs from the provider's" in line]
    return {json.loads(line)["key"].split(":")[0] for line in lines}


def cmd_report(path, lost_path, log, broker="gone"):
    token, orders, charged, faults = login(), read(path), ledger(), []
    lost = {event["aggregate"] for event in read(lost_path) if event["kind"] == "order.created"}
    reconciled = named(log)
    again = {order["id"] for order in orders if order["phase"].endswith(", again")}
    table = Counter()
    for order in [order for order in orders if not order["phase"].endswith(", again")]:
        found, order_id = look(order["id"], token), order["id"]
        state = found["status"] if found else "gone"
        table[(order["phase"] + (", asked for again" if order_id in again else ""), state)] += 1
        captures = [entry for entry in charged.get(order_id, []) if entry["kind"] == "captured"]
        if len(captures) > 1:
            faults.append(f"{order_id} was charged {len(captures)} times")
        if found and state == "PAID" and len(captures) != 1:
            faults.append(f"{order_id} is PAID and charged {len(captures)} times")
        if found and state == "CANCELLED" and captures and not any(entry["kind"] == "refunded" for entry in charged[order_id]):
            faults.append(f"{order_id} is CANCELLED and its money was not given back")
        money = any(entry["kind"] in ("authorized", "captured") for entry in charged.get(order_id, []))
        if not found and broker == "kept" and order_id not in lost:
            faults.append(f"{order_id} is gone and in no list")
        if not found and money and order_id not in lost | reconciled:
            faults.append(f"{order_id} is gone, the provider has its money, and nobody says so")
        if not found and order["phase"] in ("before", "after the restore"):
            faults.append(f"{order_id}, placed {order['phase']}, is gone")
    for (phase, state), count in sorted(table.items()):
        print(f"  {phase:40} {state:10} {count}")
    gone = {order["id"] for order in orders if look(order["id"], token) is None}
    print(f"  lost orders whose charge the provider has: {sum(any(e['kind'] == 'captured' for e in charged.get(i, [])) for i in gone)}")
    print(f"  orders named by the reconciler: {len(reconciled)}")
    for fault in faults:
        print(f"  BROKEN: {fault}")
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    globals()[f"cmd_{sys.argv[1]}"](*sys.argv[2:])
