#!/usr/bin/env python3
"""check_custom.py DEFINITIONS FILE...: judges the objects of kinds that DEFINITIONS (a folder of CustomResourceDefinitions) define by their
schemas, unknown fields refused. Prints each fault; exit code 1 when there is one, or when a kind was in none of the files."""

import pathlib
import sys

import jsonschema
import yaml

loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def closed(schema):
    """The schema as the API server's strict validation reads it: what is not named is refused."""
    if isinstance(schema, list):
        return [closed(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    schema = {key: {name: closed(one) for name, one in value.items()} if key == "properties" else closed(value) for key, value in schema.items()}
    keeps = schema.get("x-kubernetes-preserve-unknown-fields") or "additionalProperties" in schema
    return schema if "properties" not in schema or keeps else {**schema, "additionalProperties": False}


schemas = {}
for path in pathlib.Path(sys.argv[1]).glob("*.yaml"):
    definition = yaml.load(path.read_text(), loader)["spec"]
    for version in definition["versions"]:
        schema = closed(version["schema"]["openAPIV3Schema"])
        # the API server's own part
        schema["properties"]["metadata"] = {"type": "object"}
        schemas[f"{definition['group']}/{version['name']}", definition["names"]["kind"]] = jsonschema.Draft7Validator(schema)

faults, seen = [], set()
for name in sys.argv[2:]:
    for doc in yaml.load_all(pathlib.Path(name).read_text(), loader):
        kind = (doc["apiVersion"], doc["kind"]) if doc else None
        if kind not in schemas:
            continue
        seen.add(kind)
        for error in schemas[kind].iter_errors(doc):
            faults.append(f"{pathlib.Path(name).name}: {doc['kind']} /{'/'.join(map(str, error.absolute_path))}: {error.message[:300]}")
faults += [f"no {kind[1]} was judged" for kind in schemas.keys() - seen]
for fault in faults:
    print(fault, file=sys.stderr)
sys.exit(1 if faults else 0)
