#!/usr/bin/env python3
"""verify.py PROMETHEUS: asks a Prometheus that scrapes a shop under load every expression of the dashboards, and looks at all rules.

Exit code 1 when an expression is wrong, is empty or has nothing but NaN (unless it is rightly so while nothing is wrong: ops/names.py looks
at the names of those), when a rule has an error, when an alert fires, or when the one that always fires does not."""

import json
import pathlib
import subprocess
import sys
import urllib.parse
import urllib.request

# the shop beside dev/observe
NAMESPACE = "local"
GENERATOR = pathlib.Path(__file__).parent / "grafana" / "generate.py"


def get(base, path, **query):
    """The data of an answer."""
    try:
        with urllib.request.urlopen(f"{base}{path}?{urllib.parse.urlencode(query)}", timeout=20) as answer:
            return json.load(answer)["data"], ""
    except urllib.error.HTTPError as error:
        return None, json.load(error).get("error", str(error))


def main():
    """Tells what is wrong."""
    base, faults, asked = sys.argv[1], [], 0
    listed = subprocess.run([sys.executable, GENERATOR, "--expressions"], check=True, capture_output=True, text=True).stdout
    for line in listed.splitlines():
        entry = json.loads(line)
        asked += 1
        data, error = get(base, "/api/v1/query", query=entry["expr"].replace("$__rate_interval", "1m").replace("$namespace", NAMESPACE))
        where = f"{entry['dashboard']}: {entry['panel']}: {entry['expr']}"
        if error:
            faults.append(f"wrong: {where}: {error}")
        elif not data["result"]:
            faults += [] if entry["rare"] else [f"empty: {where}"]
        elif not entry["rare"] and all(found["value"][1] == "NaN" for found in data["result"]):
            faults.append(f"nothing but NaN: {where}")
    rules = [rule for group in get(base, "/api/v1/rules")[0]["groups"] for rule in group["rules"]]
    faults += [f"rule {rule['name']}: {rule['lastError']}" for rule in rules if rule["health"] == "err"]
    firing = [alert["labels"] for alert in get(base, "/api/v1/alerts")[0]["alerts"] if alert["state"] == "firing"]
    faults += [f"fires: {labels}" for labels in firing if labels["alertname"] != "Watchdog"]
    faults += [] if any(labels["alertname"] == "Watchdog" for labels in firing) else ["Watchdog does not fire"]
    down = [target["scrapeUrl"] for target in get(base, "/api/v1/targets")[0]["activeTargets"] if target["health"] != "up"]
    faults += [f"not scraped: {url}" for url in down]
    print(f"{asked} expressions asked, {len(rules)} rules looked at, {len(faults)} faults")
    for fault in faults:
        print(f"  {fault}")
    sys.exit(bool(faults))


main()
