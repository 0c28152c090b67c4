#!/usr/bin/env python3
"""Builds a template: a root file system that sandboxes share, read-only.

    build.py --print-source-digest templates/base
    build.py templates/base OUT

makes OUT/rootfs and OUT/template.json. What is in the template is data, in
template.toml; how a Debian tree is made from it is here. Packages come from the
package sources of this host, so a mirror that is set up on the host is used.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

APT = Path("/etc/apt")
# Written by what runs inside the tree; none of it is wanted in a sandbox.
LEFTOVERS = [
    "var/cache/apt/*.bin",
    "var/cache/apt/archives/*.deb",
    "var/cache/debconf/*-old",
    "var/cache/ldconfig/aux-cache",
    "var/lib/apt/lists/*",
    "var/lib/dpkg/*-old",
    "var/lib/systemd/catalog/database",
    "var/log/*.log",
    "var/log/apt/*",
    "etc/*-",
    "etc/apt/apt.conf.d/99mmdebstrap",
    "etc/dpkg/dpkg.cfg.d/99mmdebstrap",
    "dev/*",
    "root/.cache",
    "run/*",
    "tmp/*",
]


class BuildError(Exception):
    """What is wrong and what to do, for a person."""


def main() -> int:
    parser = argparse.ArgumentParser(description="Build a template.")
    parser.add_argument("source", type=Path, help="directory with template.toml")
    parser.add_argument("out", type=Path, nargs="?", help="directory to build in; must not exist")
    parser.add_argument("--print-source-digest", action="store_true", help="only print it")
    arguments = parser.parse_args()
    if arguments.print_source_digest:
        print(source_digest(arguments.source))
        return 0
    if arguments.out is None:
        parser.error("OUT is missing")
    try:
        build(arguments.source, arguments.out)
    except BuildError as error:
        print(f"templates/build.py: {error}", file=sys.stderr)
        return 1
    return 0


def source_digest(source: Path) -> str:
    """Changes whenever the template would be built from something else."""
    digest = hashlib.sha256()
    for path in [Path(__file__), *sorted(p for p in source.rglob("*") if p.is_file())]:
        content = path.read_bytes()
        digest.update(f"{path.name} {path.stat().st_mode & 0o111} {len(content)}\n".encode())
        digest.update(content)
    return digest.hexdigest()


def build(source: Path, out: Path) -> None:
    template = tomllib.loads((source / "template.toml").read_text())
    epoch = int(template["epoch"].timestamp())
    sources = debian_sources(template["suite"])
    rootfs = out / "rootfs"
    out.mkdir(parents=True)
    bootstrap(template, sources, rootfs, epoch)
    settle(template, sources, rootfs)
    clamp_times(rootfs, epoch)
    about = {key: template[key] for key in ("name", "default_user", "workdir", "env")}
    (out / "template.json").write_text(json.dumps(about, indent=2, sort_keys=True) + "\n")


def bootstrap(template: dict[str, Any], sources: str, rootfs: Path, epoch: int) -> None:
    """Makes the Debian tree."""
    prune = [f"path-exclude={path}" for path in template["prune"]["paths"]]
    prune += [f"path-include={path}" for path in template["prune"]["keep"]]
    command = [
        "mmdebstrap",
        "--mode=root",
        "--quiet",
        f"--variant={template['variant']}",
        f"--include={','.join(template['packages'])}",
        '--aptopt=APT::Install-Recommends "false"',
        '--aptopt=Acquire::Languages "none"',
        # A sandbox's disk goes with the sandbox: nothing in it needs an fsync.
        "--dpkgopt=force-unsafe-io",
        *(f"--dpkgopt={option}" for option in prune),
        template["suite"],
        str(rootfs),
        "-",
    ]
    environment = dict(os.environ, SOURCE_DATE_EPOCH=str(epoch), LC_ALL="C.UTF-8")
    try:
        subprocess.run(command, input=sources.encode(), check=True, env=environment)
    except FileNotFoundError:
        raise BuildError("mmdebstrap is missing: apt-get install mmdebstrap") from None
    except subprocess.CalledProcessError as error:
        raise BuildError(f"mmdebstrap ended with {error.returncode}; its output is above") from None


def settle(template: dict[str, Any], sources: str, rootfs: Path) -> None:
    """Turns the tree into a template: user, mount points, configuration."""
    user = template["user"]
    where = [f"--home-dir={user['home']}", f"--shell={user['shell']}"]
    inside_tree(
        rootfs, "useradd", "--create-home", "--user-group", f"--uid={user['uid']}", *where, user["name"]
    )
    sudoers = f"/etc/sudoers.d/{user['name']}"
    write(rootfs, sudoers, f"{user['name']} ALL=(ALL:ALL) NOPASSWD: ALL\n")
    inside(rootfs, sudoers).chmod(0o440)
    write(rootfs, "/etc/gitconfig", "[init]\n\tdefaultBranch = main\n")

    for pattern in LEFTOVERS:
        for path in rootfs.glob(pattern):
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()

    for directory in template["layout"]["directories"]:
        inside(rootfs, directory).mkdir(parents=True, exist_ok=True)
    for name in template["layout"]["empty_files"] + template["layout"]["kept_files"]:
        path = inside(rootfs, name)
        path.unlink(missing_ok=True)
        path.touch(mode=0o644)

    prune = "".join(f"path-exclude={path}\n" for path in template["prune"]["paths"])
    prune += "".join(f"path-include={path}\n" for path in template["prune"]["keep"])
    write(rootfs, "/etc/dpkg/dpkg.cfg.d/nullspace", "force-unsafe-io\n" + prune)
    write(
        rootfs,
        "/etc/apt/apt.conf.d/90nullspace",
        'APT::Install-Recommends "false";\nAcquire::Languages "none";\n',
    )
    for path in [*(rootfs / "etc/apt/sources.list.d").iterdir(), rootfs / "etc/apt/sources.list"]:
        path.unlink(missing_ok=True)
    write(rootfs, "/etc/apt/sources.list.d/debian.sources", sources)

    # The sandbox is the environment that this marker would have people make.
    for marker in rootfs.glob("usr/lib/python3*/EXTERNALLY-MANAGED"):
        marker.unlink()


def inside(rootfs: Path, path: str) -> Path:
    return rootfs / path.lstrip("/")


def write(rootfs: Path, name: str, text: str) -> None:
    path = inside(rootfs, name)
    path.write_text(text)
    path.chmod(0o644)


def inside_tree(rootfs: Path, *command: str) -> None:
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
    try:
        subprocess.run(["chroot", str(rootfs), *command], check=True, env=environment)
    except subprocess.CalledProcessError as error:
        raise BuildError(f"{' '.join(command)} in the template ended with {error.returncode}") from None


def clamp_times(rootfs: Path, epoch: int) -> None:
    """No time later than the epoch, so that a rebuild gives the same tree."""
    nanoseconds = epoch * 1_000_000_000
    for directory, names, files in os.walk(rootfs, topdown=False):
        for path in [os.path.join(directory, name) for name in names + files] + [directory]:
            if os.lstat(path).st_mtime_ns > nanoseconds:
                os.utime(path, ns=(nanoseconds, nanoseconds), follow_symlinks=False)


def debian_sources(suite: str) -> str:
    """This host's sources of Debian's own packages, in deb822 form."""
    wanted = {suite, f"{suite}-updates", f"{suite}-security"}
    stanzas = []
    for entry in host_sources():
        suites = [name for name in entry["Suites"].split() if name in wanted]
        # Other vendors also name their suites after Debian's, but they sign
        # with keys of their own.
        own_key = "debian-archive" in entry.get("Signed-By", "debian-archive")
        if suites and own_key and "main" in entry["Components"].split():
            entry |= {"Types": "deb", "Suites": " ".join(suites), "Components": "main"}
            entry["Signed-By"] = "/usr/share/keyrings/debian-archive-keyring.gpg"
            stanzas.append("".join(f"{key}: {value}\n" for key, value in entry.items()))
    if not any(f"Suites: {suite}" in stanza for stanza in stanzas):
        raise BuildError(f"no package source for Debian {suite} below {APT}; add Debian's own for that suite")
    return "\n".join(stanzas)


def host_sources() -> list[dict[str, str]]:
    """Every binary package source, whichever form it is written in."""
    entries: list[dict[str, str]] = []
    for path in [APT / "sources.list", *sorted((APT / "sources.list.d").glob("*.list"))]:
        for line in path.read_text().splitlines() if path.is_file() else []:
            line = line.split("#")[0].strip()
            if line.startswith("deb "):
                entries.append(one_line_entry(line))
    for path in sorted((APT / "sources.list.d").glob("*.sources")):
        for stanza in path.read_text().split("\n\n"):
            fields = stanza_fields(stanza)
            if "deb" in fields.get("Types", "").split() and fields.get("Enabled", "yes") == "yes":
                keep = ("URIs", "Suites", "Components", "Signed-By")
                entries.append({"Types": "deb"} | {key: fields[key] for key in keep if key in fields})
    return [entry for entry in entries if {"URIs", "Suites", "Components"} <= entry.keys()]


def one_line_entry(line: str) -> dict[str, str]:
    rest = line.removeprefix("deb ").strip()
    options = ""
    if rest.startswith("["):
        options, rest = rest[1:].split("]", 1)
    uri, suite, *components = rest.split()
    entry = {"Types": "deb", "URIs": uri, "Suites": suite, "Components": " ".join(components)}
    for option in options.split():
        if option.startswith("signed-by="):
            entry["Signed-By"] = option.removeprefix("signed-by=")
    return entry


def stanza_fields(stanza: str) -> dict[str, str]:
    """The fields of one deb822 stanza; continued lines (keys) are left out."""
    fields = {}
    for line in stanza.splitlines():
        if ":" in line and not line.startswith(("#", " ", "\t")):
            key, value = line.split(":", 1)
            fields[key.strip()] = value.strip()
    return fields


if __name__ == "__main__":
    sys.exit(main())
