#!/usr/bin/env python3
"""Checks the Rust dependencies: licences, sources, and crates that are there twice.

Reads what cargo has resolved and deps.toml, which has the allowed licences and
the exceptions with their reasons. An exception that nothing needs any more is an
error, so that the list stays short.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from collections import defaultdict
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
TARGET = "x86_64-unknown-linux-gnu"


def main() -> int:
    rules = tomllib.loads((ROOT / "deps.toml").read_text())
    packages = resolved_packages()
    findings = [*licences(packages, rules), *sources(packages), *duplicates(packages, rules)]
    for finding in findings:
        print(f"deps: {finding}")
    return 1 if findings else 0


def resolved_packages() -> list[dict[str, Any]]:
    """What is built for the target, without the workspace's own crates."""
    command = ["cargo", "metadata", "--locked", "--format-version=1", f"--filter-platform={TARGET}"]
    output = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE).stdout
    metadata = json.loads(output)
    own = set(metadata["workspace_members"])
    used = {node["id"] for node in metadata["resolve"]["nodes"]} - own
    return [package for package in metadata["packages"] if package["id"] in used]


def licences(packages: list[dict[str, Any]], rules: dict[str, Any]) -> list[str]:
    allowed = set(rules["licences"]["allow"])
    exceptions = {entry["crate"]: entry for entry in rules["licences"].get("exception", [])}
    findings, needed = reasons_given("licence", exceptions), set()
    for package in packages:
        name, licence = package["name"], package["license"] or "none"
        if satisfied(licence, allowed):
            continue
        exception = exceptions.get(name)
        if exception and exception["licence"] == licence:
            needed.add(name)
        else:
            findings.append(
                f"{name} {package['version']} has the licence {licence}, which deps.toml does not allow"
            )
    return findings + unused("licence", exceptions, needed)


def satisfied(expression: str, allowed: set[str]) -> bool:
    """Whether an SPDX expression can be met with allowed licences alone."""
    tokens = re.findall(r"[()]|[^\s()]+", expression.replace("/", " OR "))
    position = 0

    def either() -> bool:
        nonlocal position
        result = both()
        while position < len(tokens) and tokens[position] == "OR":
            position += 1
            # Not short-circuited: the tokens must be consumed.
            result = both() or result
        return result

    def both() -> bool:
        nonlocal position
        result = one()
        while position < len(tokens) and tokens[position] == "AND":
            position += 1
            result = one() and result
        return result

    def one() -> bool:
        nonlocal position
        token = tokens[position]
        position += 1
        if token == "(":
            result = either()
            position += 1
            return result
        if position < len(tokens) and tokens[position] == "WITH":
            token = f"{token} WITH {tokens[position + 1]}"
            position += 2
        return token in allowed

    return either()


def sources(packages: list[dict[str, Any]]) -> list[str]:
    """Only released crates: a path or a repository can change under a build."""
    return [
        f"{package['name']} {package['version']} does not come from the crates registry"
        for package in packages
        if not (package["source"] or "").startswith("registry+")
    ]


def duplicates(packages: list[dict[str, Any]], rules: dict[str, Any]) -> list[str]:
    exceptions = {entry["crate"]: entry for entry in rules.get("duplicate", [])}
    versions = defaultdict(set)
    for package in packages:
        versions[package["name"]].add(package["version"])
    findings, needed = reasons_given("duplicate", exceptions), set()
    for name, found in sorted(versions.items()):
        if len(found) == 1:
            continue
        if name in exceptions:
            needed.add(name)
        else:
            findings.append(
                f"{name} is there {len(found)} times: {', '.join(sorted(found))}; see `cargo tree -d`"
            )
    return findings + unused("duplicate", exceptions, needed)


def reasons_given(kind: str, exceptions: dict[str, Any]) -> list[str]:
    missing = [name for name, entry in exceptions.items() if not entry.get("reason")]
    return [f"the {kind} exception for {name} has no reason" for name in missing]


def unused(kind: str, exceptions: dict[str, Any], needed: set[str]) -> list[str]:
    return [
        f"nothing needs the {kind} exception for {name} any more" for name in exceptions if name not in needed
    ]


if __name__ == "__main__":
    sys.exit(main())
