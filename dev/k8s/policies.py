"""policies.py: enforces the NetworkPolicies of a one-node cluster with iptables, until it is ended. For dev/k8s-node, in network namespaces of its own.

What passes between pods is judged; what the node itself sends (probes) or is asked (names) is not, as Kubernetes has it for a pod's own node.
A kind of rule it does not know ends it: it never lets through what it has not understood.
"""

import json
import subprocess
import time


def objects(kind: str) -> list[dict]:
    told = subprocess.run(["kubectl", "get", kind, "-A", "-o", "json"], check=True, capture_output=True, text=True, timeout=30)
    return json.loads(told.stdout)["items"]


def selects(selector: dict | None, labels: dict) -> bool:
    selector = selector or {}
    if set(selector) - {"matchLabels"}:
        raise SystemExit(f"not known: a selector with {sorted(selector)}")
    return all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items())


class Cluster:
    """Pods that have an address and run, namespaces and policies, as they are now."""

    def __init__(self) -> None:
        self.namespaces = {item["metadata"]["name"]: item["metadata"].get("labels", {}) for item in objects("namespaces")}
        self.policies = objects("networkpolicies")
        self.pods = [
            pod
            for pod in objects("pods")
            if pod["status"].get("podIP") and pod["status"]["phase"] in ("Pending", "Running") and not pod["spec"].get("hostNetwork")
        ]

    def selected(self, pod: dict, direction: str) -> list[dict]:
        """The policies that judge this pod's traffic in this direction."""
        meta = pod["metadata"]
        return [
            policy
            for policy in self.policies
            if policy["metadata"]["namespace"] == meta["namespace"]
            and direction in policy["spec"]["policyTypes"]
            and selects(policy["spec"]["podSelector"], meta.get("labels", {}))
        ]

    def peers(self, namespace: str, peer: dict) -> list[tuple[str, dict | None]]:
        """Who is meant: addresses, each with its pod where it has one."""
        if "ipBlock" in peer:
            if peer["ipBlock"].get("except"):
                raise SystemExit("not known: ipBlock with exceptions")
            return [(peer["ipBlock"]["cidr"], None)]
        found = []
        for pod in self.pods:
            meta = pod["metadata"]
            inside = selects(peer["namespaceSelector"], self.namespaces[meta["namespace"]]) if "namespaceSelector" in peer else meta["namespace"] == namespace
            if inside and selects(peer.get("podSelector"), meta.get("labels", {})):
                found.append((pod["status"]["podIP"], pod))
        return found


def port_matches(ports: list[dict], pod: dict | None) -> list[str]:
    """The iptables matches of a rule's ports; names are those of the pod that is called."""
    if not ports:
        return [""]
    matches = []
    for port in ports:
        protocol, wanted = port.get("protocol", "TCP"), port.get("port")
        if "endPort" in port:
            raise SystemExit("not known: endPort")
        if isinstance(wanted, str):
            containers = (pod or {"spec": {"containers": []}})["spec"]["containers"]
            numbers = [own["containerPort"] for one in containers for own in one.get("ports", []) if own.get("name") == wanted]
        else:
            numbers = [wanted]
        matches += [f"-p {protocol.lower()} --dport {number}" if number else f"-p {protocol.lower()}" for number in numbers]
    return matches


def chain_of(cluster: Cluster, pod: dict, direction: str) -> list[str]:
    """What this pod may be sent, or send; the rest is dropped."""
    key, peers_key, side = ("ingress", "from", "-s") if direction == "Ingress" else ("egress", "to", "-d")
    rules = []
    for policy in cluster.selected(pod, direction):
        for rule in policy["spec"].get(key) or []:
            everybody = [("0.0.0.0/0", None)]
            peers = [one for peer in rule[peers_key] for one in cluster.peers(policy["metadata"]["namespace"], peer)] if rule.get(peers_key) else everybody
            for address, other in peers:
                called = pod if direction == "Ingress" else other
                rules += [f"{side} {address} {match} -j RETURN" for match in port_matches(rule.get("ports") or [], called)]
    return [*rules, "-j DROP"]


def table(cluster: Cluster) -> str:
    chains, main = {}, ["-m conntrack --ctstate ESTABLISHED,RELATED -j RETURN"]
    for pod in sorted(cluster.pods, key=lambda one: one["metadata"]["uid"]):
        for direction, side in (("Ingress", "-d"), ("Egress", "-s")):
            if cluster.selected(pod, direction):
                name = f"{direction[:2].upper()}-{pod['metadata']['uid'][:13]}"
                chains[name] = chain_of(cluster, pod, direction)
                main.append(f"{side} {pod['status']['podIP']} -j {name}")
    chains["POLICIES"] = main
    lines = ["*filter", *(f":{name} - [0:0]" for name in chains)]
    lines += [f"-A {name} {rule}" for name, rules in chains.items() for rule in rules]
    return "\n".join([*lines, "COMMIT", ""])


def restore(text: str) -> None:
    subprocess.run(["iptables-restore", "--noflush"], input=text, check=True, text=True)


restore("*filter\n:POLICIES - [0:0]\n-I FORWARD 1 -j POLICIES\nCOMMIT\n")
before = ""
while True:
    now = table(Cluster())
    if now != before:
        restore(now)
        print(f"{now.count('-j RETURN')} ways, {now.count('-j DROP')} pods and directions shut", flush=True)
        before = now
    time.sleep(0.5)
