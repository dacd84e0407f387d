#!/usr/bin/env python3
"""Customers at the edge of a development shop, for dashboards and drills; no benchmark (that is bench/).

load.py --env .mercato/dev.env [--seconds N] [--rate N] [--token T]: so many orders a second, each from one of a few customers, with reads
around it; one in ten is declined by the provider, one in twenty is cancelled, one in twenty is watched. Prints what was answered, by status.
"""

import argparse
import collections
import http.client
import json
import random
import threading
import time
import urllib.parse
import uuid

CUSTOMERS = 8
ADDRESS = {"street": "Hauptstrasse 5", "city": "Koeln", "state": "NW", "zipCode": "50667"}


class Client:
    """One connection at a time to the edge; opened again when it breaks."""

    def __init__(self, base, told):
        self.host, self.told, self.connection, self.token = urllib.parse.urlsplit(base).netloc, told, None, None

    def ask(self, verb, path, body=None, key=False):
        """The answer's body, or nothing for a refusal."""
        headers = {"content-type": "application/json"}
        if self.token:
            headers["authorization"] = f"Bearer {self.token}"
        if key:
            headers["idempotency-key"] = str(uuid.uuid4())
        try:
            if self.connection is None:
                self.connection = http.client.HTTPConnection(self.host, timeout=10)
            self.connection.request(verb, path, json.dumps(body) if body is not None else None, headers)
            answer = self.connection.getresponse()
            text = answer.read()
            self.told[f"{verb} {path.split('?')[0].split(':')[0].rsplit('/', 1)[0]} {answer.status}"] += 1
            return json.loads(text) if answer.status < 300 and not path.endswith(":watch") else None
        except (OSError, http.client.HTTPException, ValueError) as error:
            self.told[f"{verb} {type(error).__name__}"] += 1
            self.connection = None
            return None


def register(client):
    """A new customer, signed in."""
    name, password = f"load-{uuid.uuid4().hex[:12]}", uuid.uuid4().hex
    email = f"{name}@example.com"
    client.ask("POST", "/api/customers", {"username": name, "email": email, "password": password}, key=True)
    session = client.ask("POST", "/auth/login", {"email": email, "password": password})
    client.token = session["access_token"] if session else None


def visit(client, products, token):
    """Looks around, orders, and sometimes changes their mind."""
    chosen = random.choice(products)
    client.ask("GET", f"/api/products/{chosen}")
    client.ask("GET", "/api/products?pageSize=20")
    dice = random.random()
    means = token or ("tok_decline" if dice < 0.1 else "tok_approve")
    order = {"items": [{"productId": chosen, "quantity": 1}], "shippingAddress": ADDRESS, "paymentMethod": "credit_card", "paymentToken": means}
    placed = client.ask("POST", "/api/orders", order, key=True)
    if not placed:
        return
    if dice > 0.95:
        client.ask("POST", f"/api/orders/{placed['id']}:cancel", {}, key=True)
    elif dice > 0.9:
        client.ask("GET", f"/api/orders/{placed['id']}:watch")
    else:
        client.ask("GET", f"/api/orders/{placed['id']}")


def work(base, products, pace, until, told, token):
    """One customer, at an even pace."""
    client = Client(base, told)
    due = time.monotonic() + random.random() * pace
    signed_in = 0.0
    while due < until:
        time.sleep(max(0.0, due - time.monotonic()))
        if not client.token or time.monotonic() - signed_in > 300:
            register(client)
            signed_in = time.monotonic()
        visit(client, products, token)
        due = max(due + pace, time.monotonic())


def known_products(client):
    """Some thousand products, so that none is sold out soon; the edge may need a moment."""
    products, page, patience = [], "", time.monotonic() + 60
    while len(products) < 2000:
        found = client.ask("GET", f"/api/products?pageSize=100&pageToken={page}")
        if found is None and time.monotonic() < patience:
            time.sleep(0.5)
            continue
        products += [product["id"] for product in (found or {}).get("products", [])]
        page = (found or {}).get("nextPageToken")
        if not page:
            break
    if not products:
        raise SystemExit("the edge shows no products")
    return products


def main():
    """Starts the customers and tells what they heard."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--env", required=True)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--rate", type=float, default=10)
    parser.add_argument("--token")
    options = parser.parse_args()
    with open(options.env, encoding="utf-8") as file:
        env = dict(line.strip().split("=", 1) for line in file if "=" in line)
    base, told = env["MERCATO_URL"], collections.Counter()
    products = known_products(Client(base, told))
    until, pace = time.monotonic() + options.seconds, CUSTOMERS / options.rate
    threads = [threading.Thread(target=work, args=(base, products, pace, until, told, options.token), daemon=True) for _ in range(CUSTOMERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for answer, times in sorted(told.items()):
        print(f"{times:7} {answer}")


main()
