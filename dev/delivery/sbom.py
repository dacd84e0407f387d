"""The software bill of materials of one program: sbom.py METADATA CRATES LOCK REVISION, CycloneDX 1.5 as JSON on standard output.

METADATA is `cargo metadata`, CRATES one "name vVERSION" a line as `cargo tree` tells which of them are linked, LOCK is Cargo.lock.
"""

import json
import re
import sys
import tomllib


def component(package, checksums):
    """One crate, named as package registries name it."""
    name, version = package["name"], package["version"]
    licence = re.sub(r"\s*/\s*", " OR ", package.get("license") or "")  # the older way to say it
    found = {
        "type": "library",
        "bom-ref": f"pkg:cargo/{name}@{version}",
        "name": name,
        "version": version,
        "purl": f"pkg:cargo/{name}@{version}",
    }
    if licence:
        found["licenses"] = [{"expression": licence}]
    if checksum := checksums.get((name, version)):
        found["hashes"] = [{"alg": "SHA-256", "content": checksum}]
    return found


def main():
    metadata, crates, lock, revision = sys.argv[1:]
    with open(metadata, encoding="utf-8") as file:
        packages = {(p["name"], p["version"]): p for p in json.load(file)["packages"]}
    with open(lock, "rb") as file:
        checksums = {(p["name"], p["version"]): p.get("checksum") for p in tomllib.load(file)["package"]}
    with open(crates, encoding="utf-8") as file:
        linked = sorted({(name, version.removeprefix("v")) for name, version in (line.split() for line in file if line.strip())})
    program = packages[("mercato", next(v for n, v in linked if n == "mercato"))]
    bom = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {
            "component": {
                "type": "application",
                "bom-ref": "mercato",
                "name": "mercato",
                "version": program["version"],
                "properties": [{"name": "git:revision", "value": revision}],
            }
        },
        "components": [component(packages[crate], checksums) for crate in linked if crate[0] != "mercato"],
    }
    json.dump(bom, sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main()
