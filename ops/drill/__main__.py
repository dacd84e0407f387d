"""Makes the causes of alerts in a shop started by dev/drill-alerts, which see. Each alert must fire; then its page is followed, command for
command, and the alert must end."""

import argparse
import os
import re
import signal
import sys
import time

from causes import CAUSES
from pages import Hand
from shop import ROOT, STATE, Prometheus, Shop, run, until

FACTOR = 10


def scaled(text):
    """The rules with a tenth of every window, wait and age."""
    units = {"s": 1, "m": 60, "h": 3600, "d": 86400}

    def shorter(found):
        return f"{found[1]}{max(1, int(found[2]) * units[found[3]] // FACTOR)}s{found[4]}"

    text = re.sub(r"(\[)(\d+)([smhd])(\])", shorter, text)
    text = re.sub(r"(for: |interval: )(\d+)([smh])()", lambda f: f"{f[1]}0s" if f[2] == "0" else shorter(f), text)
    return re.sub(r"(_seconds(?:\{[^}]*\})?\)?) > (\d+)", lambda f: f"{f[1]} > {int(f[2]) // FACTOR}", text)


def calm(shop, prometheus, seconds):
    """Orders and silence."""
    with shop.load():
        time.sleep(seconds)
    fired, pending = (", ".join(sorted(prometheus.were(state, seconds))) or "nothing" for state in ("firing", "pending"))
    print(f"healthy load, {seconds:.0f} s, real rules: fired {fired}; pending for a while {pending}", flush=True)
    return fired == "nothing"


def rehearse(shop, prometheus, hand, name):
    """One cause; whether all its alerts fired, its pages answered, and the alerts ended."""
    cause, took, also = CAUSES[name], {}, set()
    wanted, before = set(cause.alerts), prometheus.firing()
    if wanted & before:
        print(f"    {name}: {wanted & before} fired already, which shows nothing", flush=True)
        return False
    with shop.load():
        with cause.make(shop) as found:
            values, began = cause.values | (found or {}), time.monotonic()

            def seen():
                now = prometheus.firing()
                also.update(now - wanted - before)
                for alert in now & wanted:
                    took.setdefault(alert, time.monotonic() - began)
                return len(took) == len(wanted)

            fired = until(f"{name}: {', '.join(cause.alerts)}", seen) is not None
            for alert in cause.alerts:
                hand.follow(alert, "See", values)
            if cause.repair:
                hand.follow(cause.repair, "See", values)
            hand.follow(cause.repair or cause.alerts[0], "Repair", values, cause.lines)
        for alert in cause.afterwards:
            hand.follow(alert, "Repair", values)
        silent = until(f"{name}: silence", lambda: not prometheus.firing() & wanted) if cause.ends else None
        told = ", ".join(f"{alert} {took[alert]:.0f} s" if alert in took else f"{alert} NEVER" for alert in cause.alerts)
        end = "stays" if not cause.ends else "NEVER" if silent is None else f"{silent:.0f} s"
        hand.note(f"| {name} | {told} | {end} | {', '.join(sorted(also)) or '-'} |")
        until("what else fired is silent", lambda: not prometheus.firing() & also, 120)
    return fired and (silent is not None or not cause.ends)


def main():
    """The calm part, then the causes."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was done is undone
    parser = argparse.ArgumentParser()
    parser.add_argument("--env", required=True)
    parser.add_argument("--prometheus", required=True)
    parser.add_argument("--calm", type=float, required=True)
    parser.add_argument("--causes", default="all")
    parser.add_argument("--transcript", required=True)
    options = parser.parse_args()
    shop, prometheus = Shop(options.env), Prometheus(options.prometheus)
    hand = Hand(prometheus, options.transcript)
    names = {"all": list(CAUSES), "none": []}.get(options.causes, options.causes.split())
    good = calm(shop, prometheus, options.calm) if options.calm > 0 else True
    if not names:
        sys.exit(not good)
    rules = STATE / "rules"
    rules.mkdir(exist_ok=True)
    for path in (ROOT / "ops/prometheus/rules").glob("*.yaml"):
        (rules / path.name).write_text(scaled(path.read_text()))
    run("bash", "-c", f". {ROOT}/dev/parts.sh && stop prometheus && rm -rf \"$(workplace prometheus)/data\"")
    run(ROOT / "dev/observe", env=os.environ | {"MERCATO_RULES": str(rules), "MERCATO_SCRAPE_SECONDS": "1"})
    print("| cause | fires after | ends after | also fired |\n|---|---|---|---|", flush=True)
    with shop.load():
        time.sleep(30)
    results = [rehearse(shop, prometheus, hand, name) for name in names]
    if hand.wrong:
        print("commands of pages that cannot be right:", *hand.wrong, sep="\n  ", flush=True)
    sys.exit(not (good and all(results) and not hand.wrong))


main()
