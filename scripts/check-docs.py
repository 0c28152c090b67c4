#!/usr/bin/env python3
"""Checks docs/errors against the schema and the Python client, and links in all docs.

Every reason has a page, each page says the reason's code, class and whether it
can be retried, and the index has the same. A relative link leads to a file.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import grpc

from nullspace.errors import error_of

ROOT = Path(__file__).resolve().parents[1]
PAGES = ROOT / "docs" / "errors"
REASON = re.compile(r"ERROR_REASON_(\w+) = \d+ \[\(reason_policy\) = \{code: (\d+)( retryable: true)?")
LINK = re.compile(r"\]\(([^)#:]+)(?:#[^)]*)?\)")


def main() -> int:
    findings = [*error_pages(), *links()]
    for finding in findings:
        print(f"docs: {finding}")
    return 1 if findings else 0


def error_pages() -> list[str]:
    names = {code.value[0]: code.name for code in grpc.StatusCode}
    index = (PAGES / "README.md").read_text()
    expected, findings = {"README"}, []
    for reason, number, retryable in REASON.findall((ROOT / "proto/nullspace/v1/errors.proto").read_text()):
        expected.add(reason)
        error, code = error_of(reason, ""), names[int(number)]
        cls = type(error).__name__
        head = f"`{code}` · {'' if retryable else 'not '}retryable · Python `{cls}`, code `{error.code}`"
        row = f"| {code} | {'yes' if retryable else 'no'} | `{cls}` | `{error.code}` |"
        page = PAGES / f"{reason}.md"
        if not page.is_file():
            findings.append(f"docs/errors/{reason}.md is missing")
        elif f"gRPC {head}\n" not in page.read_text():
            findings.append(f"docs/errors/{reason}.md should say: gRPC {head}")
        if f"| [{reason}]({reason}.md) {row}" not in index:
            findings.append(f"docs/errors/README.md lacks the row: | [{reason}]({reason}.md) {row}")
    extra = {page.stem for page in PAGES.glob("*.md")} - expected
    return findings + [f"docs/errors/{name}.md is of no reason" for name in sorted(extra)]


def links() -> list[str]:
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", "*.md"]
    output = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
    return [
        f"{name}: the link to {target} leads nowhere"
        for name in output.splitlines()
        for target in LINK.findall((ROOT / name).read_text())
        if not ((ROOT / name).parent / target).exists()
    ]


if __name__ == "__main__":
    sys.exit(main())
