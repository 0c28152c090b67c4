"""The client in whole programs: the quickstart, interrupts, forks, exits."""

import os
import pathlib
import re
import signal
import subprocess
import sys

from support import eventually

from nullspace import Sandbox

ROOT = pathlib.Path(__file__).resolve().parents[3]


def python(code, **options):
    return subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
    )


def finish(process):
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def test_quickstart():
    process = subprocess.run(
        [sys.executable, str(ROOT / "examples" / "quickstart.py")], capture_output=True, text=True, timeout=60
    )
    assert process.returncode == 0, process.stderr
    assert re.fullmatch(r"sb_[0-9a-z]{26}\nready\n\n", process.stdout)
    assert process.stderr == ""
    sandbox_id = process.stdout.split()[0]
    assert Sandbox.get_info_by_id(sandbox_id).status == "destroyed"


def test_a_program_ends_with_a_handle_open():
    code = """
from nullspace import Sandbox
sandbox = Sandbox.create(memory_mb=256)
handle = sandbox.commands.run("sleep", ["300"], background=True, on_stdout=print)
print(sandbox.id, flush=True)
"""
    returncode, out, err = finish(python(code))
    sandbox = Sandbox.connect(out.strip())
    try:
        assert (returncode, err) == (0, "")
        assert [process.command for process in sandbox.commands.list()] == ["sleep 300"]
    finally:
        sandbox.kill()


def test_an_interrupt_ends_a_foreground_command():
    code = """
from nullspace import Sandbox
sandbox = Sandbox.create(memory_mb=256)
print(sandbox.id, flush=True)
try:
    line = "echo begun; sleep 300"
    sandbox.commands.run(line, shell=True, on_stdout=lambda text: print(text, end="", flush=True))
except KeyboardInterrupt:
    print("interrupted")
"""
    process = python(code)
    sandbox_id = process.stdout.readline().strip()
    assert process.stdout.readline() == "begun\n"
    process.send_signal(signal.SIGINT)
    returncode, out, err = finish(process)
    sandbox = Sandbox.connect(sandbox_id)
    try:
        assert (returncode, out, err) == (0, "interrupted\n", "")
        eventually(lambda: not sandbox.commands.list())
    finally:
        sandbox.kill()


def test_a_forked_child_uses_its_parent_s_sandbox():
    code = """
import os, sys
from nullspace import Sandbox
with Sandbox.create(memory_mb=256) as sandbox:
    sandbox.commands.run("true")
    child = os.fork()
    if not child:
        print(sandbox.commands.run("echo", ["child"]).stdout, end="", flush=True)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    print(sandbox.commands.run("echo", ["parent"]).stdout, end="")
    sys.exit(os.waitstatus_to_exitcode(status))
"""
    returncode, out, _ = finish(python(code, env={**os.environ, "GRPC_VERBOSITY": "NONE"}))
    assert (returncode, out) == (0, "child\nparent\n")
