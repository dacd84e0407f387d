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
    given = yaml.safe_load((root / "helm/examples" / f"{name}.yaml").read_text())
    return merged(yaml.safe_load((root / "helm/values.yaml").read_text()), given)


def roles(of):
    return {name: merged(of["roleDefaults"], entry or {}) for name, entry in of["roles"].items()}


def ident(doc):
    return doc["kind"], doc["metadata"]["name"]


def pod_of(doc):
    if doc["kind"] == "Pod":
        return doc["metadata"], doc["spec"]
    template = doc.get("spec", {}).get("template")
    return (template["metadata"], template["spec"]) if isinstance(template, dict) and "spec" in template else None


def component(labels):
    return labels.get("app.kubernetes.io/component")


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
    rules = [doc for doc in docs if doc["kind"] == "PrometheusRule"]
    groups = [group["name"] for rule in rules for group in rule["spec"]["groups"]]
    files = [yaml.safe_load(path.read_text()) for path in sorted((root / "ops/prometheus/rules").glob("*.yaml"))]
    check(not rules or groups == [group["name"] for file in files for group in file["groups"]], f"{name}: not all rules are there: {groups}")


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
            if container["name"] in ("postgres", "redis", "kafka", "envoy"):
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
                if env["name"].endswith("_FILE") and container["name"] in ("mercato", "migrate", "seed"):
                    check(env["value"] in there, f"{name}: {'/'.join(ident(doc))} names {env['value']}, which nobody mounts")


def stores_are_spoken_to_as_declared(name, docs, given, wanted):
    security = given["kafka"]["security"]["protocol"]
    for doc in docs:
        found = pod_of(doc)
        if not found or component(found[0]["labels"]) not in {*wanted, "migrate"}:
            continue
        env = {e["name"]: e.get("value") for container in found[1]["containers"] for e in container.get("env", [])}
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


def a_role_rolls_well(what, deployment, entry):
    spec = deployment["spec"]
    pod, container = spec["template"]["spec"], spec["template"]["spec"]["containers"][0]
    env = {e["name"]: e.get("value") for e in container["env"]}
    check(spec["strategy"]["rollingUpdate"]["maxUnavailable"] == 0, f"{what} rolls below its replicas")
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


def hooks_come_in_order(name, docs, early):
    hooks = {ident(doc): doc["metadata"].get("annotations", {}) for doc in docs}
    when = hooks[("Job", "mercato-migrate")].get("helm.sh/hook")
    check(when == ("pre-upgrade" if early else "pre-install,pre-upgrade"), f"{name}: migrations run at {when}")
    check(hooks[("Pod", "mercato-test")].get("helm.sh/hook") == "test", f"{name}: there is no test")
    for kind in ("ServiceAccount", "NetworkPolicy"):
        needed = hooks[(kind, "mercato-migrate")]
        check(int(needed["helm.sh/hook-weight"]) < int(hooks[("Job", "mercato-migrate")]["helm.sh/hook-weight"]), f"{name}: {kind} comes too late")


for path in sorted(folder.glob("*.yaml")):
    name = path.stem
    docs = load(name)
    given = values("small-shop" if name == "newcomer" else name)
    if name == "newcomer":
        given["roles"]["newcomer"] = {"calls": ["catalog", "customer"]}
    wanted = roles(given)
    check(len({ident(doc) for doc in docs}) == len(docs), f"{name}: two objects have one name")
    each_pod_is_restricted(name, docs)
    versions_are_ours(name, docs, given)
    no_secret_is_inside(name, docs)
    each_setting_is_known(name, docs)
    each_file_is_mounted(name, docs)
    stores_are_spoken_to_as_declared(name, docs, given, wanted)
    each_role_is_whole(name, docs, given, wanted)
    selectors_find_pods(name, docs)
    ways_are_the_declared_ones(name, docs, given, wanted)
    hooks_come_in_order(name, docs, given["postgres"]["inCluster"]["enabled"] or given["kafka"]["inCluster"]["enabled"])

if not (folder / "newcomer.yaml").exists():
    sys.exit(print(*faults, sep="\n") or bool(faults))
before, after = ({ident(doc) for doc in load(name)} for name in ("small-shop", "newcomer"))
kinds = sorted(kind for kind, _ in after - before)
wanted_kinds = ["Deployment", "HorizontalPodAutoscaler", "NetworkPolicy", "PodDisruptionBudget", "Service", "Service", "ServiceAccount"]
check(before <= after and kinds == wanted_kinds, f"a new role brings {kinds}")

for fault in faults:
    print(f"chart: {fault}", file=sys.stderr)
sys.exit(1 if faults else 0)
