#!/usr/bin/env python3
"""Makes nullspace/_gen from proto/: messages and their types, without services.

Needs grpcio-tools (the extra `dev`). Methods are called by their path (see
nullspace/_rpc.py), so that one table serves both the blocking and the async
client.
"""

from __future__ import annotations

import re
import shutil
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
PROTO = HERE.parents[1] / "proto"
TARGET = HERE / "nullspace" / "_gen"

# protoc lays modules out by proto package. Ours live below nullspace._gen, so
# that they cannot collide with the package itself.
IMPORT = re.compile(r"^(from|import) nullspace\.v1\b", re.MULTILINE)
MODULE = re.compile(r"'nullspace\.v1\.(\w+_pb2)'")


def generate() -> None:
    """Runs protoc and puts its output in place."""
    try:
        from grpc_tools import protoc
    except ImportError:
        sys.exit("generate.py needs grpcio-tools: pip install -e 'clients/python[dev]'")
    bundled = Path(protoc.__file__).parent / "_proto"
    protos = sorted((PROTO / "nullspace" / "v1").glob("*.proto"))
    if not protos:
        sys.exit(f"no protos in {PROTO / 'nullspace' / 'v1'}")
    with tempfile.TemporaryDirectory(dir=HERE) as scratch:
        out = Path(scratch)
        arguments = ["protoc", f"-I{PROTO}", f"-I{bundled}", f"--python_out={out}", f"--pyi_out={out}"]
        if protoc.main([*arguments, *map(str, protos)]) != 0:
            sys.exit("protoc failed")
        package = out / "_gen" / "v1"
        package.mkdir(parents=True)
        for module in sorted((out / "nullspace" / "v1").iterdir()):
            text = IMPORT.sub(r"\1 nullspace._gen.v1", module.read_text())
            (package / module.name).write_text(MODULE.sub(r"'nullspace._gen.v1.\1'", text))
        for directory in (package, package.parent):
            (directory / "__init__.py").write_text("")
        shutil.rmtree(TARGET, ignore_errors=True)
        package.parent.rename(TARGET)


if __name__ == "__main__":
    generate()
