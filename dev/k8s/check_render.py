#!/usr/bin/env python3
"""check_render.py ROOT FOLDER: asserts on the rendered chart (FOLDER/*.yaml) what helm/README.md promises. Prints each broken promise;
exit code 1 when there is one. Run by dev/check-helm."""

import pathlib
import re
import sys

import yaml

root, folder = map(pathlib.Path, sys.argv[1:])
loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
faults = []


def check(holds, text):
    if not holds:
        faults.append(text)


def load(name):
    return [doc for doc in yaml.load_all((folder / f"{name}.yaml").read_text(), loader) if doc]


def merged(below, above):
    if isinstance(below, dict) and isinstance(above, dict):
        return {key: merged(below.get(key), above.get(key)) if key in above else below[key] for key in {**below, **above}}
    return above


def values(name):
    files = [path for folder in ("examples", "environments") if (path := root / "helm" / folder / f"{name}.yaml").exists()]
    given = yaml.safe_load(files[0].read_text())
    return merged(yaml.safe_load((root / "helm/values.yaml").read_text()), given)


def roles(of):
    return {name: merged(of["roleDefaults"], entry or {}) for name, entry in of["roles"].items()}


def ident(doc):
    return doc["kind"], doc["metadata"]["name"]


def pod_of(doc):
    if doc["kind"] == "Pod":
        return doc["metadata"], doc["spec"]
    spec = doc.get("spec", {})
    template = spec.get("jobTemplate", {}).get("spec", spec).get("template")
    return (template["metadata"], template["spec"]) if isinstance(template, dict) and "spec" in template else None


def component(labels):
    return labels.get("app.kubernetes.io/component")


def quantity(text):
    number, unit = re.fullmatch(r"([0-9.]+)([a-zA-Z]*)", str(text)).groups()
    return float(number) * {"": 1, "m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}[unit]


def each_pod_is_placed(name, docs, placement):
    for doc in docs:
        found = pod_of(doc)
        if not found:
            continue
        what = f"{name}: {'/'.join(ident(doc))}"
        for key, wanted in placement.items():
            check(not wanted or found[1].get(key) == wanted, f"{what} is not placed as `placement` says: {key}")
        changing = {"app.kubernetes.io/version", "helm.sh/chart"} & set(found[0]["labels"])
        check(doc["kind"] == "Pod" or not changing, f"{what}: pods are replaced for a label: {changing}")
        for spread in found[1].get("topologySpreadConstraints", []):
            check(spread.get("nodeTaintsPolicy") == "Honor", f"{what}: a drained node counts as the emptiest, its pods have nowhere to go")


def each_pod_is_restricted(name, docs):
    for doc in docs:
        found = pod_of(doc)
        if not found:
            continue
        spec, what = found[1], f"{name}: {'/'.join(ident(doc))}"
        security = spec.get("securityContext", {})
        check(security.get("runAsNonRoot") is True and security.get("runAsUser", 0) > 0, f"{what} may run as root")
        check(security.get("seccompProfile", {}).get("type") == "RuntimeDefault", f"{what} has no seccomp profile")
        check(spec.get("automountServiceAccountToken") is False, f"{what} gets a token of the API server")
        check(not any(spec.get(key) for key in ("hostNetwork", "hostPID", "hostIPC")), f"{what} uses the host's namespaces")
        check(not any("hostPath" in volume for volume in spec.get("volumes", [])), f"{what} mounts the host's disk")
        for container in spec.get("initContainers", []) + spec["containers"]:
            each, inside = f"{what} {container['name']}", container.get("securityContext", {})
            check(inside.get("allowPrivilegeEscalation") is False, f"{each} may gain privileges")
            check(inside.get("readOnlyRootFilesystem") is True, f"{each} writes to its root")
            check(inside.get("capabilities", {}).get("drop") == ["ALL"], f"{each} keeps capabilities")
            for kind in ("requests", "limits"):
                given = container.get("resources", {}).get(kind, {})
                check(set(given) >= {"cpu", "memory"}, f"{each} has no {kind}")
            mounted = {mount["name"] for mount in container.get("volumeMounts", [])}
            there = {volume["name"] for volume in spec.get("volumes", [])}
            there |= {claim["metadata"]["name"] for claim in doc["spec"].get("volumeClaimTemplates", [])}
            check(mounted <= there, f"{each} mounts what is not there: {mounted - there}")


def versions_are_ours(name, docs, given):
    pinned = dict(re.findall(r"^([A-Z_]+)=(\S+)", (root / "dev/versions.env").read_text(), re.M))
    ours = re.search(r'^version = "(.*)"', (root / "Cargo.toml").read_text(), re.M)[1]
    chart = yaml.safe_load((root / "helm/Chart.yaml").read_text())
    check(chart["appVersion"] == ours, f"the chart is for {chart['appVersion']}, this is {ours}")
    check(given["edge"]["image"]["tag"].endswith(f"v{pinned['ENVOY_VERSION']}"), f"{name}: Envoy is not {pinned['ENVOY_VERSION']}")
    for store in ("postgres", "kafka"):
        wanted = pinned[f"{store.upper()}_VERSION"]
        check(given[store]["inCluster"]["image"].endswith(f":{wanted}"), f"{name}: {store} is not {wanted}")
    copies = given["backup"]["image"].endswith(f":{pinned['POSTGRES_VERSION']}")
    check(copies, f"{name}: backups are made by {given['backup']['image']}, PostgreSQL is {pinned['POSTGRES_VERSION']}")
    compose = yaml.safe_load((root / "compose.yaml").read_text())["services"]
    for store in ("postgres", "redis", "kafka"):
        tag, other = given[store]["inCluster"]["image"].split(":")[1], compose[store]["image"].split(":")[1]
        check(other.split("-")[0] == tag, f"{name}: {store} is {tag}, in compose.yaml {other}")


def all_is_seen(name, docs, given):
    for doc in docs:
        if doc["kind"] == "ServiceMonitor":
            for endpoint in doc["spec"]["endpoints"]:
                named = {rule["targetLabel"] for rule in endpoint["relabelings"]}
                check(named == {"component", "job"}, f"{name}: metrics at {endpoint['port']} do not say of what component they are")
        if doc["kind"] == "PrometheusRule":
            groups = doc["spec"]["groups"]
            files = [yaml.safe_load(path.read_text()) for path in sorted((root / "ops/prometheus/rules").glob("*.yaml"))]
            ours = [group for file in files for group in file["groups"]]
            for rule in [rule for group in ours for rule in group["rules"] if "annotations" in rule]:
                path = rule["annotations"]["runbook_url"]
                rule["annotations"]["runbook_url"] = given["monitoring"]["prometheusRule"]["runbookBaseUrl"] + path
            differing = [one["name"] for one, other in zip(ours, groups) if one != other]
            check(groups == ours, f"{name}: rules are not those of ops/prometheus/rules with full links: {differing or len(groups)}")


def no_secret_is_inside(name, docs):
    check(all(doc["kind"] != "Secret" for doc in docs), f"{name}: a Secret is rendered")
    for doc in docs:
        found = pod_of(doc)
        for container in (found[1].get("initContainers", []) + found[1]["containers"]) if found else []:
            for env in container.get("env", []):
                by_reference = env["name"].endswith("_FILE") or "valueFrom" in env
                check(by_reference or not re.search("SECRET|PASSWORD|DATABASE_URL", env["name"]), f"{name}: {env['name']} is a value")


def each_setting_is_known(name, docs):
    source = "".join(path.read_text() for folder in ("services", "gateway") for path in (root / folder).glob("**/src/**/*.rs"))
    composed = re.compile("^(MERCATO_PEER_[A-Z]+|[A-Z]+_DATABASE_URL|MERCATO_RATE_[A-Z]+_(PER_SECOND|BURST))$")
    for doc in docs:
        found = pod_of(doc)
        for container in (found[1].get("initContainers", []) + found[1]["containers"]) if found else []:
            if container["name"] in ("postgres", "redis", "kafka", "envoy", "begin", "databases", "keep"):
                continue
            for env in container.get("env", []):
                setting = env["name"].removesuffix("_FILE")
                check(f'"{setting}"' in source or f'"{env["name"]}"' in source or composed.match(setting), f"{name}: nobody reads {env['name']}")


def each_file_is_mounted(name, docs):
    for doc in docs:
        found = pod_of(doc)
        if not found:
            continue
        files = {}
        for volume in found[1].get("volumes", []):
            sources = volume.get("projected", {}).get("sources", [])
            items = [item for source in sources for kind in source.values() for item in kind.get("items", [])]
            files[volume["name"]] = {item["path"] for item in items}
        for container in found[1].get("initContainers", []) + found[1]["containers"]:
            there = {f"{m['mountPath']}/{path}" for m in container.get("volumeMounts", []) for path in files.get(m["name"], [])}
            for env in container.get("env", []):
                if env["name"].endswith("_FILE") and container["name"] in ("mercato", "migrate", "seed", "place", "events"):
                    check(env["value"] in there, f"{name}: {'/'.join(ident(doc))} names {env['value']}, which nobody mounts")


def stores_are_spoken_to_as_declared(name, docs, given, wanted):
    security = given["kafka"]["security"]["protocol"]
    for doc in docs:
        found = pod_of(doc)
        if not found or component(found[0]["labels"]) not in {*wanted, "migrate", "backup"}:
            continue
        containers = found[1].get("initContainers", []) + found[1]["containers"]
        env = {e["name"]: e.get("value") for container in containers for e in container.get("env", [])}
        what = f"{name}: {'/'.join(ident(doc))}"
        check("KAFKA_BROKERS" not in env or env.get("KAFKA_SECURITY_PROTOCOL", "PLAINTEXT") == security, f"{what} speaks to Kafka without {security}")
        verified = given["postgres"]["ca"]["configMap"] or given["postgres"]["ca"]["secret"]
        database = any(key.endswith("_DATABASE_URL_FILE") for key in env)
        check(bool(database and verified) == ("DATABASE_SSL_CA_FILE" in env), f"{what} does not verify PostgreSQL as declared")


def each_role_is_whole(name, docs, given, wanted):
    kinds = ["Deployment", "Service", "ServiceAccount", "PodDisruptionBudget", "NetworkPolicy"]
    have = {ident(doc): doc for doc in docs}
    for role, entry in {**wanted, "edge": given["edge"]}.items():
        for kind in kinds + (["HorizontalPodAutoscaler"] if entry["autoscaling"]["enabled"] else []):
            check((kind, f"mercato-{role}") in have, f"{name}: role {role} has no {kind}")
        check(("Service", f"mercato-{role}-pods") in have, f"{name}: Envoy cannot find the pods of {role}")
        deployment = have.get(("Deployment", f"mercato-{role}"))
        if deployment and role != "edge":
            a_role_rolls_well(f"{name}: {role}", deployment, entry)
        scaler = have.get(("HorizontalPodAutoscaler", f"mercato-{role}"))
        if deployment and role == "edge":
            envoy_has_room(f"{name}: Envoy", deployment, scaler)


def a_role_rolls_well(what, deployment, entry):
    spec = deployment["spec"]
    pod, container = spec["template"]["spec"], spec["template"]["spec"]["containers"][0]
    env = {e["name"]: e.get("value") for e in container["env"]}
    check(spec["strategy"]["rollingUpdate"]["maxUnavailable"] == 0, f"{what} rolls below its replicas")
    surge = str(spec["strategy"]["rollingUpdate"]["maxSurge"])
    most = entry["autoscaling"]["maxReplicas"] if entry["autoscaling"]["enabled"] else entry["replicas"]
    at_once = -(-most * int(surge[:-1]) // 100) if surge.endswith("%") else int(surge)
    # a pod takes some two seconds to start; what helm/README.md tells to wait is 10 minutes
    longest = -(-most // at_once) * (spec["minReadySeconds"] + 60) + pod_of(deployment)[1]["terminationGracePeriodSeconds"]
    check(longest <= 600, f"{what} with {most} pods rolls for up to {longest} s, longer than a release is waited for")
    check(pod["terminationGracePeriodSeconds"] * 1000 > int(env["MERCATO_DRAIN_MS"]), f"{what} is killed while it drains")
    check(int(env["MERCATO_LAME_DUCK_MS"]) < int(env["MERCATO_DRAIN_MS"]), f"{what} drains in no time")
    check(container["readinessProbe"]["grpc"]["port"] == 50051, f"{what} is not asked by gRPC whether it serves")
    check("grpc" not in container["livenessProbe"], f"{what} would be ended for not being ready")
    check("startupProbe" in container, f"{what} has no time to start")
    check(len(pod["topologySpreadConstraints"]) == 2, f"{what} is not spread")
    check(("replicas" in spec) != entry["autoscaling"]["enabled"], f"{what}: a release would undo its autoscaler")
    sources = [source["secret"]["name"] for source in pod["volumes"][0]["projected"]["sources"] if "secret" in source]
    others = [secret for secret in sources if "-db-" in secret and not secret.endswith(f"-db-{deployment['metadata']['name'][8:]}")]
    check(not others, f"{what} sees the database of another: {others}")


def envoy_has_room(what, deployment, scaler):
    """Each defence before the next: more pods, then Envoy's own, then the kernel's."""
    spec = deployment["spec"]["template"]["spec"]
    env = {e["name"]: e.get("value") for e in spec["initContainers"][0]["env"]}
    heap, limit = int(env["MERCATO_EDGE_MAX_HEAP_BYTES"]), quantity(spec["containers"][0]["resources"].get("limits", {}).get("memory", 0))
    check(heap <= limit * 0.9, f"{what} is ended for its memory before it defends itself: {heap} of {limit:.0f}")
    if not scaler:
        return
    by_memory = [m["resource"]["target"] for m in scaler["spec"]["metrics"] if m["resource"]["name"] == "memory"]
    check(bool(by_memory), f"{what}: open streams bring no more pods")
    for target in by_memory:
        check(quantity(target["averageValue"]) <= heap / 2, f"{what} refuses clients before there are more pods")


def selectors_find_pods(name, docs):
    pods = [found[0]["labels"] for doc in docs if (found := pod_of(doc))]
    for doc in docs:
        spec = doc.get("spec", {})
        selector = spec.get("selector") if doc["kind"] == "Service" else spec.get("selector", {}).get("matchLabels")
        if doc["kind"] not in ("Service", "PodDisruptionBudget") or not selector:
            continue
        found = {component(labels) for labels in pods if selector.items() <= labels.items()}
        check(len(found) == 1, f"{name}: {'/'.join(ident(doc))} selects pods of {found or 'nobody'}")


def reached(rule, ends):
    return {component(end["podSelector"]["matchLabels"]) for end in rule.get(ends, []) if "podSelector" in end and "namespaceSelector" not in end}


def ways_are_the_declared_ones(name, docs, given, wanted):
    policies = {component(doc["metadata"]["labels"]): doc["spec"] for doc in docs if doc["kind"] == "NetworkPolicy"}
    inside = {store: given[store]["inCluster"]["enabled"] for store in ("postgres", "redis", "kafka")}
    uses = {"postgres": "database", "redis": "redis", "kafka": "kafka"}
    declared = {(caller, peer) for caller, entry in wanted.items() for peer in entry["calls"]}
    declared |= {("edge", role) for role, entry in wanted.items() if entry["edge"]}
    declared |= {(role, "edge") for role, entry in wanted.items() if entry["developmentProvider"]}
    for store, on in inside.items():
        declared |= {(role, store) for role, entry in wanted.items() if on and entry[uses[store]]}
        declared |= {(job, store) for job in ("migrate", "seed") if on and store != "redis"}
    if not (given["seed"]["enabled"]):
        declared = {way for way in declared if way[0] != "seed"}
    declared.add(("test", "edge"))
    out = {(who, peer) for who, spec in policies.items() for rule in spec.get("egress", []) for peer in reached(rule, "to")}
    check(out == declared, f"{name}: ways out differ from the declared ones: {sorted(out ^ declared)}")
    # the edge lets in everybody unless values say whom
    into = {(peer, who) for who, spec in policies.items() for rule in spec.get("ingress", []) for peer in reached(rule, "from")}
    open_door = not given["edge"]["from"]
    expected = {way for way in declared if not (open_door and way[1] == "edge")}
    into = {way for way in into if way[0] != "seed" or given["seed"]["enabled"]}
    check(into == expected, f"{name}: ways in differ from the declared ones: {sorted(into ^ expected)}")
    for who, spec in policies.items():
        for rule in spec.get("ingress", []):
            free = not rule.get("from")
            check(not free or (who == "edge" and rule["ports"] == [{"port": "http"}]), f"{name}: everybody may enter {who}")
    check(policies["default-deny"]["policyTypes"] == ["Ingress", "Egress"] and len(policies["default-deny"]) == 2, f"{name}: nothing is denied")


def backups_are_of_one_moment(name, docs):
    for doc in docs:
        if doc["kind"] == "CronJob":
            steps = [container["name"] for container in pod_of(doc)[1]["initContainers"]]
            check(steps == ["begin", "place", "databases", "events"], f"{name}: what the log must have is lost between {steps}")
            check(doc["spec"]["concurrencyPolicy"] == "Forbid", f"{name}: two backups write into one folder")


def hooks_come_in_order(name, docs, early):
    hooks = {ident(doc): doc["metadata"].get("annotations", {}) for doc in docs}
    when = hooks[("Job", "mercato-migrate")].get("helm.sh/hook")
    check(when == ("pre-upgrade" if early else "pre-install,pre-upgrade"), f"{name}: migrations run at {when}")
    check(hooks[("Pod", "mercato-test")].get("helm.sh/hook") == "test", f"{name}: there is no test")
    for kind in ("ServiceAccount", "NetworkPolicy"):
        needed = hooks[(kind, "mercato-migrate")]
        check(int(needed["helm.sh/hook-weight"]) < int(hooks[("Job", "mercato-migrate")]["helm.sh/hook-weight"]), f"{name}: {kind} comes too late")


# renderings of an example with something more
VARIANTS = {"newcomer": "small-shop", "later": "laptop", "placed": "laptop", "backed": "large-shop"}
POOL = {
    "nodeSelector": {"pool": "shop"},
    "tolerations": [{"key": "shop", "operator": "Exists"}],
    "affinity": {"nodeAffinity": {}},
    "priorityClassName": "shop",
}

for path in sorted(folder.glob("*.yaml")):
    name = path.stem
    docs = load(name)
    given = values(VARIANTS.get(name, name))
    if name == "newcomer":
        given["roles"]["newcomer"] = {"calls": ["catalog", "customer"]}
    if name == "placed":
        given["placement"] = POOL
    wanted = roles(given)
    check(len({ident(doc) for doc in docs}) == len(docs), f"{name}: two objects have one name")
    each_pod_is_restricted(name, docs)
    each_pod_is_placed(name, docs, given["placement"])
    all_is_seen(name, docs, given)
    versions_are_ours(name, docs, given)
    no_secret_is_inside(name, docs)
    each_setting_is_known(name, docs)
    each_file_is_mounted(name, docs)
    stores_are_spoken_to_as_declared(name, docs, given, wanted)
    each_role_is_whole(name, docs, given, wanted)
    selectors_find_pods(name, docs)
    ways_are_the_declared_ones(name, docs, given, wanted)
    backups_are_of_one_moment(name, docs)
    hooks_come_in_order(name, docs, given["postgres"]["inCluster"]["enabled"] or given["kafka"]["inCluster"]["enabled"])

if (folder / "later.yaml").exists():
    now, later = ({ident(doc): doc["spec"] for doc in load(name) if doc["kind"] == "StatefulSet"} for name in ("laptop", "later"))
    check(len(now) == 3 and now == later, f"another version of the shop starts its stores again: {[key for key in now if now[key] != later.get(key)]}")
if (folder / "newcomer.yaml").exists():
    before, after = ({ident(doc) for doc in load(name)} for name in ("small-shop", "newcomer"))
    kinds = sorted(kind for kind, _ in after - before)
    wanted_kinds = ["Deployment", "HorizontalPodAutoscaler", "NetworkPolicy", "PodDisruptionBudget", "Service", "Service", "ServiceAccount"]
    check(before <= after and kinds == wanted_kinds, f"a new role brings {kinds}")

for fault in faults:
    print(f"chart: {fault}", file=sys.stderr)
sys.exit(1 if faults else 0)
