"""The software bill of materials of one image: CycloneDX 1.5 as JSON on standard output. Run by `dev/image sbom`.

--metadata is `cargo metadata`, --crates one "name vVERSION" a line as `cargo tree` tells which of them are linked, --lock is Cargo.lock,
--packages Debian's packages as dpkg describes them, --seen where their versions were seen, --base the base image.
"""

import argparse
import json
import re
import sys
import tomllib


def crate_component(package, checksums):
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


def package_component(fields, seen):
    """One of Debian's packages, and where its version was seen."""
    name, version = fields["Package"], fields["Version"]
    purl = f"pkg:deb/debian/{name}@{version.replace('+', '%2B').replace(':', '%3A')}?arch={fields['Architecture']}"
    return {
        "type": "library",
        "bom-ref": purl,
        "name": name,
        "version": version,
        "purl": purl,
        "properties": [{"name": "mercato:version-seen-in", "value": seen}],
    }


def described(text):
    """The paragraphs of dpkg's status, by field; packages without a version are not installed."""
    for paragraph in re.split(r"\n\s*\n", text):
        fields = dict(line.split(": ", 1) for line in paragraph.splitlines() if re.match(r"[A-Z][A-Za-z-]*: ", line))
        if {"Package", "Version", "Architecture"} <= fields.keys():
            yield fields


def main():
    parser = argparse.ArgumentParser()
    for name in ("program", "metadata", "crates", "lock", "packages", "seen", "base", "revision"):
        parser.add_argument(f"--{name}", required=True)
    given = parser.parse_args()
    with open(given.metadata, encoding="utf-8") as file:
        packages = {(p["name"], p["version"]): p for p in json.load(file)["packages"]}
    with open(given.lock, "rb") as file:
        checksums = {(p["name"], p["version"]): p.get("checksum") for p in tomllib.load(file)["package"]}
    with open(given.crates, encoding="utf-8") as file:
        linked = sorted({(name, version.removeprefix("v")) for name, version in (line.split() for line in file if line.strip())})
    with open(given.packages, encoding="utf-8") as file:
        system = {fields["Package"]: package_component(fields, given.seen) for fields in described(file.read())}
    program = packages[(given.program, next(v for n, v in linked if n == given.program))]
    base, _, base_tag = given.base.partition(":")
    bom = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {
            "component": {
                "type": "container",
                "bom-ref": given.program,
                "name": given.program,
                "version": program["version"],
                "properties": [{"name": "git:revision", "value": given.revision}],
            }
        },
        "components": [
            {"type": "container", "bom-ref": given.base, "name": base, "version": base_tag, "description": "the base image"},
            *(component for _, component in sorted(system.items())),
            *(crate_component(packages[crate], checksums) for crate in linked if crate[0] != given.program),
        ],
    }
    json.dump(bom, sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main()
