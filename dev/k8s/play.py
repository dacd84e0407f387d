#!/usr/bin/env python3
"""play.py FOLDER: plays the pods of a rendered chart as processes of this machine. Each gets the arguments, the settings and the files of
secrets its container would get, and nothing else of the environment; only addresses and paths are put in place of those inside a cluster.
FOLDER holds chart.yaml and secrets.yaml. Run by dev/k8s-play, which says what for. Environment: MERCATO_BIN, MERCATO_PROVIDER_BIN, ENVOY,
PG_BIN, and the ports PG_PORT, REDIS_PORT, KAFKA_PORT and BASE_PORT (forty from there on)."""

import concurrent.futures
import os
import pathlib
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request

import yaml

folder = pathlib.Path(sys.argv[1]).resolve()
base = int(os.environ["BASE_PORT"])
docs = {(d["kind"], d["metadata"]["name"]): d for d in yaml.safe_load_all((folder / "chart.yaml").read_text()) if d}
secrets = {d["metadata"]["name"]: d["stringData"] for d in yaml.safe_load_all((folder / "secrets.yaml").read_text()) if d}
roles = sorted(name[8:] for kind, name in docs if kind == "PodDisruptionBudget" and name != "mercato-edge")
ports = {role: base + i for i, role in enumerate(roles)}
admin = {role: base + 10 + i for i, role in enumerate(roles)}
own = {"http": base + 20, "edge": base + 21, "envoy": base + 22, "stats": base + 23, "inside": base + 24, "provider": base + 25}
programs = {"mercato": os.environ["MERCATO_BIN"], "provider": os.environ["MERCATO_PROVIDER_BIN"], "envoy": os.environ["ENVOY"]}
running = {}
passed = 0


def say(what, since=None):
    global passed
    passed += 1
    print(f"ok   {what}" + (f" ({time.monotonic() - since:.1f} s)" if since else ""), flush=True)


def fail(what):
    print(f"FAIL {what}", flush=True)
    for log in sorted(folder.glob("*.log")):
        print(f"--- {log.name}", *log.read_text(errors="replace").splitlines()[-4:], sep="\n")
    sys.exit(1)


def place(text, pod):
    """An address or path inside the cluster as one of this machine; pod is the component whose own addresses are meant."""
    home = str(folder / pod)
    for service, port in (("postgres", "PG_PORT"), ("redis", "REDIS_PORT"), ("kafka", "KAFKA_PORT")):
        text = re.sub(rf"mercato-{service}\.shop\.svc\.cluster\.local:\d+", f"127.0.0.1:{os.environ[port]}", text)
    text = re.sub(r"mercato-gateway-pods\.shop\.svc\.cluster\.local:8081", f"127.0.0.1:{own['http']}", text)
    text = re.sub(r"mercato-edge\.shop\.svc\.cluster\.local:80\b", f"127.0.0.1:{own['edge']}", text)
    text = re.sub(r"mercato-([a-z]+?)(-pods)?\.shop\.svc\.cluster\.local:50051", lambda m: f"127.0.0.1:{ports[m[1]]}", text)
    listen = {"0.0.0.0:50051": ports.get(pod), "0.0.0.0:9464": admin.get(pod), "0.0.0.0:8081": own["http"], "0.0.0.0:8080": own["edge"]}
    listen |= {"127.0.0.1:9901": own["envoy"], "0.0.0.0:9902": own["stats"], "127.0.0.1:50051": own["inside"], "127.0.0.1:8090": own["provider"]}
    for address, port in listen.items():
        text = text.replace(address, f"127.0.0.1:{port}")
    return re.sub(r"^/(run/secrets|edge|data|backup|etc/mercato)", rf"{home}/\1", text)


def write_volumes(pod, spec):
    """The files of the pod's secrets, where its containers expect them."""
    mounts = {m["name"]: m["mountPath"] for c in spec.get("initContainers", []) + spec["containers"] for m in c.get("volumeMounts", [])}
    for volume in spec.get("volumes", []):
        target = pathlib.Path(place(mounts[volume["name"]], pod))
        target.mkdir(parents=True, exist_ok=True)
        if "configMap" in volume:
            for name, text in docs["ConfigMap", volume["configMap"]["name"]]["data"].items():
                (target / name).write_text(text)
        whole = [volume["secret"] | {"name": volume["secret"]["secretName"]}] if "secret" in volume else []
        for source in whole + [s["secret"] for s in volume.get("projected", {}).get("sources", [])]:
            for item in source["items"]:
                (target / item["path"]).write_text(place(secrets[source["name"]][item["key"]], pod))


def start(pod, spec, container, program):
    def value(env):
        reference = env.get("valueFrom", {})
        if "secretKeyRef" in reference:
            return secrets[reference["secretKeyRef"]["name"]][reference["secretKeyRef"]["key"]]
        return pod if reference else place(env["value"], pod)

    env = {e["name"]: value(e) for e in container.get("env", [])}
    args = [place(arg, pod) if not arg.startswith("--url=") else "--url=" + place(arg[6:], pod) for arg in container.get("args", [])]
    if program is None:  # a shell in the image of PostgreSQL
        program, *args = [place(arg, pod) for arg in container["command"]]
        env["PATH"] = f"{os.environ['PG_BIN']}:/usr/bin:/bin"
    log = (folder / f"{pod}-{container['name']}.log").open("ab")
    return subprocess.Popen([program, *args], env=env, stdout=log, stderr=log, cwd=folder)


def pod_of(kind, name):
    spec = docs[kind, f"mercato-{name}"]["spec"]
    spec = spec["jobTemplate"]["spec"] if kind == "CronJob" else spec
    spec = spec["template"]["spec"] if kind != "Pod" else spec
    write_volumes(name, spec)
    return spec


def once(kind, name, container=None):
    """Runs a Job, a Pod or an init container to its end."""
    spec = pod_of(kind, name)
    found = next(c for c in spec.get("initContainers", []) + spec["containers"] if container in (None, c["name"]))
    process = start(name, spec, found, programs["mercato"])
    if process.wait(timeout=180) != 0:
        fail(f"{kind} {name} ends with {process.returncode}")


def back_up():
    """The containers of the backup's CronJob, one after the other; the names of the copies that are there afterwards."""
    spec = pod_of("CronJob", "backup")
    for container in spec["initContainers"] + spec["containers"]:
        process = start("backup", spec, container, programs["mercato"] if "args" in container else None)
        if process.wait(timeout=180) != 0:
            fail(f"the backup's {container['name']} ends with {process.returncode}")
    return sorted(path.name for path in (folder / "backup/backup").iterdir())


def backups_are_kept():
    moment = time.monotonic()
    first = back_up()
    with concurrent.futures.ThreadPoolExecutor() as meanwhile:
        order = meanwhile.submit(once, "Pod", "test")
        second = back_up()
        order.result()
    if len(first) != 1 or len(second) != 1 or first == second:
        fail(f"one copy should be kept, the newest: {first}, then {second}")
    say("two backups, the second with an order under way; the first has gone", moment)
    (folder / "copy").symlink_to(folder / "backup/backup" / second[0])


def answers(url, seconds=60):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            with urllib.request.urlopen(url, timeout=2) as answer:
                return answer.read().decode()
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.05)
    fail(f"{url} does not answer")


def psql(url, statement):
    command = [f"{os.environ['PG_BIN']}/psql", "-X", "-v", "ON_ERROR_STOP=1", "-c", statement, place(url, "psql")]
    return subprocess.run(command, capture_output=True, text=True)


def users_are_confined():
    stored = [role for role in roles if f"mercato-db-{role}" in secrets]
    for role in stored:
        url = secrets[f"mercato-db-{role}"]["url"]
        for statement in ("create table t (id int)", "create schema s", "alter table outbox add column c int", "drop table outbox", "create role r"):
            result = psql(url, statement)
            if result.returncode == 0 or not re.search("permission denied|must be owner", result.stderr):
                fail(f"{role} may `{statement}`: {result.stderr}")
        for other in stored:
            result = psql(url.replace(f"/mercato_{role}", f"/mercato_{other}"), "select 1")
            if (result.returncode == 0) != (other == role):
                fail(f"{role} and the database of {other}: {result.stderr}")


def metrics_page_and_nothing_else():
    if "envoy_cluster_upstream_rq" not in answers(f"http://127.0.0.1:{own['stats']}/stats/prometheus"):
        fail("Envoy's metrics are not there")
    for path, method in (("/quitquitquit", "POST"), ("/config_dump", "GET"), ("/ready", "POST"), ("/", "GET")):
        try:
            urllib.request.urlopen(urllib.request.Request(f"http://127.0.0.1:{own['stats']}{path}", method=method), timeout=2)
            fail(f"{method} {path} of Envoy's admin interface is open")
        except urllib.error.HTTPError as error:
            if error.code != 404:
                fail(f"{method} {path} answers {error.code}")


def start_all():
    since = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor() as both:
        list(both.map(lambda _: once("Job", "migrate"), range(2)))
    say("the migration hook, twice at the same time", since)
    once("Job", "migrate")
    say("and again")
    for role in roles:
        spec = pod_of("Deployment", role)
        if any(c["name"] == "migrate" for c in spec.get("initContainers", [])):
            once("Deployment", role, "migrate")
        for container in spec["containers"]:
            running[role, container["name"]] = start(role, spec, container, programs[container["name"]])
    for role in roles:
        answers(f"http://127.0.0.1:{admin[role]}/readyz")
    say("every role serves with the user that may change no table")
    once("Deployment", "edge", "configuration")
    spec = pod_of("Deployment", "edge")
    for container in spec["containers"]:
        running["edge", container["name"]] = start("edge", spec, container, programs[{"drain": "mercato"}.get(container["name"], container["name"])])
    answers(f"http://127.0.0.1:{own['stats']}/ready")
    say("Envoy takes its configuration and is ready")
    once("Job", "seed")
    say("the seed")


def drain_and_end():
    seconds = docs["Deployment", "mercato-edge"]["spec"]["template"]["spec"]["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
    running["edge", "drain"].send_signal(signal.SIGTERM)
    if running["edge", "drain"].wait(timeout=10) != 0:
        fail("the drain fails")
    with urllib.request.urlopen(f"http://127.0.0.1:{own['edge']}/api/products?pageSize=1", timeout=5) as answer:
        if answer.status != 200 or answer.headers["connection"] != "close":
            fail("a draining Envoy does not ask its clients to go")
    say(f"Envoy drains: it answers still, and asks clients to connect elsewhere (it has {seconds} s)")
    running["edge", "envoy"].send_signal(signal.SIGTERM)
    since = time.monotonic()
    for (pod, name), process in running.items():
        if pod != "edge":
            process.send_signal(signal.SIGTERM)
    for (pod, name), process in running.items():
        grace = docs["Deployment", f"mercato-{pod}"]["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
        try:
            code = process.wait(timeout=max(0.1, grace - (time.monotonic() - since)))
        except subprocess.TimeoutExpired:
            fail(f"{pod} {name} does not end within its {grace} s")
        if code != 0:
            fail(f"{pod} {name} ends with {code}")
    say("every process ends by itself within its grace period", since)


try:
    start_all()
    users_are_confined()
    say("no role's user changes a table or enters another's database")
    metrics_page_and_nothing_else()
    say("Envoy shows metrics and readiness to other pods, and nothing else")
    moment = time.monotonic()
    once("Pod", "test")
    print((folder / "test-smoke.log").read_text(), end="")
    say("helm test: an order is placed and paid", moment)
    backups_are_kept()
    drain_and_end()
    print(f"{passed} passed, 0 failed")
finally:
    for process in running.values():
        if process.poll() is None:
            process.kill()
