#!/usr/bin/env python3
"""Makes the dashboards of boards.py: generate.py [--check | --expressions].

--check says whether the files are what this makes; --expressions prints every expression as JSON lines, for dev/observe --verify and
ops/names.py."""

import json
import pathlib
import sys

from boards import everything

HERE = pathlib.Path(__file__).parent / "dashboards"
SOURCE = {"type": "prometheus", "uid": "${source}"}
VARIABLES = [
    {"name": "source", "type": "datasource", "query": "prometheus", "label": "Prometheus", "hide": 0},
    {
        "name": "namespace",
        "type": "query",
        "label": "Shop",
        "datasource": SOURCE,
        "query": {"query": "label_values(mercato_build_info, namespace)", "refId": "namespace"},
        "refresh": 2,
        "sort": 1,
        "hide": 0,
    },
]


def target(number, line):
    """A query. Points on a line of durations lead to a trace each, where the data source says where traces are."""
    made = {"refId": chr(ord("A") + number), "expr": line.expression, "legendFormat": line.name}
    return made | {"exemplar": True} if "_seconds_bucket{" in line.expression else made


def grafana_panel(number, place, entry):
    """A panel as Grafana wants it."""
    return {
        "id": number,
        "type": "stat" if entry["stat"] else "timeseries",
        "title": entry["title"],
        "description": entry["about"],
        "gridPos": place,
        "datasource": SOURCE,
        "fieldConfig": {"defaults": {"unit": entry["unit"], "min": 0}, "overrides": []},
        "targets": [target(i, line) for i, line in enumerate(entry["lines"])],
    }


def grafana(uid, title, rows):
    """The dashboard as Grafana wants it: three panels beside each other."""
    panels, y, number = [], 0, 0
    for name, entries in rows:
        number += 1
        place = {"x": 0, "y": y, "w": 24, "h": 1}
        panels.append({"id": number, "type": "row", "title": name, "gridPos": place, "collapsed": False, "panels": []})
        y += 1
        for nth, entry in enumerate(entries):
            number += 1
            panels.append(grafana_panel(number, {"x": nth % 3 * 8, "y": y + nth // 3 * 8, "w": 8, "h": 8}, entry))
        y += (len(entries) + 2) // 3 * 8
    return {
        "uid": uid,
        "title": title,
        "tags": ["mercato"],
        "timezone": "utc",
        "schemaVersion": 39,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": VARIABLES},
        "links": [{"type": "dashboards", "tags": ["mercato"], "title": "Mercato", "asDropdown": True}],
        "panels": panels,
    }


def text(board):
    """The file: an entry a line, and a panel a line."""
    compact = lambda value: json.dumps(value, ensure_ascii=False)
    head = "".join(f' "{key}": {compact(value)},\n' for key, value in board.items() if key != "panels")
    return "{\n" + head + ' "panels": [\n  ' + ",\n  ".join(compact(panel) for panel in board["panels"]) + "\n ]\n}\n"


def main():
    """Writes, compares or lists."""
    boards = everything()
    if "--expressions" in sys.argv:
        for name, (_, rows) in boards.items():
            for entry in (entry for _, entries in rows for entry in entries):
                for line in entry["lines"]:
                    print(json.dumps({"dashboard": name, "panel": entry["title"], "expr": line.expression, "rare": line.rare}))
        return
    made = {HERE / f"{name}.json": text(grafana(f"mercato-{name}", f"Mercato: {title}", rows)) for name, (title, rows) in boards.items()}
    if "--check" in sys.argv:
        if {path: path.read_text() for path in HERE.glob("*.json")} != made:
            sys.exit("ops/grafana/dashboards is old: python3 ops/grafana/generate.py")
        return
    HERE.mkdir(exist_ok=True)
    for path in HERE.glob("*.json"):
        path.unlink()
    for path, content in made.items():
        path.write_text(content)


main()
