"""The shop of the drill: its processes, its doors, its databases, and the Prometheus that looks at it."""

import contextlib
import json
import os
import pathlib
import random
import subprocess
import sys
import time
import urllib.parse
import urllib.request
import uuid

ROOT = pathlib.Path(__file__).resolve().parents[2]
STATE = pathlib.Path(os.environ["MERCATO_STATE"])
ROLES = ["catalog", "inventory", "ordering", "payment", "customer", "gateway"]
PATIENCE = 240


def run(*command, **options):
    """A command that must succeed; what it says goes to the log."""
    with open(STATE / "logs" / "drill.log", "ab") as log:
        subprocess.run([str(part) for part in command], check=True, stdout=log, stderr=log, **options)


def part(verb, *names, **settings):
    """Starts, stops or kills processes of the shop, with settings of their own."""
    run(ROOT / "dev/part", verb, *names, env=os.environ | settings)


def pid(name):
    """The id of a process."""
    return int((STATE / "run" / f"{name}.pid").read_text())


def admin(role):
    """A role's admin address."""
    return f"127.0.0.1:{int(os.environ['MERCATO_ADMIN_PORTS']) + ROLES.index(role)}"


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
        command = [os.environ["PSQL"], "-X", "-qAt", "-v", "ON_ERROR_STOP=1", "-d", self.url(role), "-c", text]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()

    @contextlib.contextmanager
    def session(self, role, text):
        """Leaves a transaction open for the time of the block, unless somebody ends the session before."""
        command = [os.environ["PSQL"], "-X", "-q", "-d", self.url(role)]
        child = subprocess.Popen(command, stdin=subprocess.PIPE, text=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        child.stdin.write(f"set idle_in_transaction_session_timeout = 0;\nbegin;\n{text}\n")
        child.stdin.flush()
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                child.stdin.close()
            child.wait(timeout=30)

    def ask(self, verb, url, body, **headers):
        """The answer of a request, which must be a good one."""
        headers = {"content-type": "application/json"} | {name.replace("_", "-"): value for name, value in headers.items()}
        request = urllib.request.Request(url, json.dumps(body).encode(), headers, method=verb)
        with urllib.request.urlopen(request, timeout=20) as answer:
            return json.load(answer)

    def order(self, means):
        """One order of the development customer; its id."""
        edge = self.env["MERCATO_URL"]
        if self.token is None:
            login = {"email": self.env["CUSTOMER_EMAIL"], "password": self.env["CUSTOMER_PASSWORD"]}
            self.token = self.ask("POST", f"{edge}/auth/login", login)["access_token"]
        with urllib.request.urlopen(f"{edge}/api/products?pageSize=100", timeout=20) as answer:
            product = random.choice(json.load(answer)["products"])["id"]
        address = {"street": "Hauptstrasse 5", "city": "Koeln", "state": "NW", "zipCode": "50667"}
        body = {"items": [{"productId": product, "quantity": 1}], "shippingAddress": address, "paymentMethod": "credit_card", "paymentToken": means}
        headers = {"authorization": f"Bearer {self.token}", "idempotency_key": str(uuid.uuid4())}
        return self.ask("POST", f"{edge}/api/orders", body, **headers)["id"]

    @contextlib.contextmanager
    def load(self, rate=10):
        """Orders for the time of the block."""
        command = [sys.executable, ROOT / "ops/load.py", "--env", self.env_file, "--seconds", "100000", "--rate", str(rate)]
        child = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            yield
        finally:
            child.terminate()
            child.wait()


class Prometheus:
    """What fires, and what expressions say."""

    def __init__(self, base):
        self.base = base

    def get(self, path, **query):
        """The data of an answer."""
        with urllib.request.urlopen(f"{self.base}{path}?{urllib.parse.urlencode(query)}", timeout=20) as answer:
            return json.load(answer)["data"]

    def firing(self):
        """The names of the alerts that fire, but for the one that always does."""
        alerts = self.get("/api/v1/alerts")["alerts"]
        return {alert["labels"]["alertname"] for alert in alerts if alert["state"] == "firing"} - {"Watchdog"}

    def were(self, state, seconds):
        """The names of the alerts that were in that state in that time."""
        found = self.get("/api/v1/query", query=f'count by (alertname) (count_over_time(ALERTS{{alertstate="{state}"}}[{int(seconds)}s]))')
        return {entry["metric"]["alertname"] for entry in found["result"]} - {"Watchdog"}

    def series(self, expression):
        """What an expression says now, a line a series."""
        result = self.get("/api/v1/query", query=expression)["result"]
        return [f"{json.dumps(entry['metric'])} {entry['value'][1]}" for entry in result]
