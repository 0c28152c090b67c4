"""The contract from other languages: one program in each, over generated code alone."""

import contextlib
import hashlib
import itertools
import json
import os
import pathlib
import subprocess
import threading
import time

import pytest
from cutter import Cutter

from nullspace import Sandbox

CLIENTS = pathlib.Path(__file__).parents[3] / "clients"
PROGRAMS = {
    "go": [CLIENTS / "go/build/follow"],
    "typescript": ["node", CLIENTS / "typescript/build/follow.js"],
    "java": ["java", "-jar", CLIENTS / "java/target/follow.jar"],
    "cpp": [CLIENTS / "cpp/build/follow"],
}
CUTS = {"small": 20, "full": 200}[os.environ.get("SCALE", "small")]
# Seconds between cuts, again and again. The long ones let a program through that
# has just begun to run and is slow yet, however busy the machine.
PAUSES = (0.01, 0.02, 0.04, 0.08, 0.16)
# Seconds for one program; pytest's own limit lies above.
LIMIT = 100

INPUT = bytes(range(256)) * 16_000
ROUNDS = 2 * CUTS
GATE = "/tmp/enough"
# Output on both streams while input comes in, then whatever time the cuts still
# take, then more than a connection can hold.
COMMAND = f"""
for i in $(seq 1 {ROUNDS}); do
    head -c 10000
    seq $((i * 1000 - 999)) $((i * 1000)) >&2
    sleep 0.02
done
cat
until [ -e {GATE} ]; do sleep 0.02; done
seq 1 200000
exit 3
"""


def numbers(last):
    return "".join(f"{number}\n" for number in range(1, last + 1)).encode()


@pytest.fixture(params=PROGRAMS)
def language(request):
    program = pathlib.Path(PROGRAMS[request.param][-1])
    if request.param == "cpp" and not program.exists():
        pytest.skip("gRPC's Debian packages for C++ did not install; `scripts/setup.sh cpp` says why")
    return request.param


@pytest.fixture
def cutter():
    cutter = Cutter()
    yield cutter
    cutter.close()


class Program:
    """A running program: its input is given, its error output is read as it comes."""

    def __init__(self, language, command, **environment):
        self._process = subprocess.Popen(
            [*PROGRAMS[language], command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, **environment},
        )
        self._timer = threading.Timer(LIMIT, self._process.kill)
        self._timer.start()

    def give(self, data):
        self._process.stdin.write(data)
        self._process.stdin.close()

    def error_line(self):
        return self._process.stderr.readline().decode()

    def end(self):
        """Its status, output and what was left of its error output."""
        output, errors = self._process.stdout.read(), self._process.stderr.read()
        return self._process.wait(), output.decode(), errors.decode()

    def __enter__(self):
        return self

    def __exit__(self, *raised):
        self._timer.cancel()
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdout, self._process.stderr):
            pipe.close()


@contextlib.contextmanager
def cutting(cutter):
    """Cuts until the block ends. Gives a function that waits for so many more."""
    done = threading.Event()

    def run():
        pauses = itertools.cycle(PAUSES)
        while not done.wait(next(pauses)):
            cutter.cut()

    def wait_for(count):
        deadline, count = time.monotonic() + LIMIT, cutter.count + count
        while cutter.count < count:
            assert time.monotonic() < deadline, f"{cutter.count} cuts of {count} found a connection"
            time.sleep(0.02)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield wait_for
    finally:
        done.set()
        thread.join()


def test_a_command_is_followed_across_cuts(language, cutter):
    with Program(language, COMMAND, NULLSPACE_API_URL=cutter.url) as program:
        with cutting(cutter) as wait_for:
            program.give(INPUT)
            line = program.error_line()
            assert line.startswith("sandbox sb_"), line
            wait_for(CUTS)
            sandbox_id = line.split()[1]
            with Sandbox.connect(sandbox_id) as sandbox:
                sandbox.files.write(GATE, "")
                status, output, errors = program.end()
        assert (status, errors) == (0, "")
    result = json.loads(output)
    # Cut before it was answered, an attach is counted as well.
    assert result.pop("attaches") > CUTS // 2
    stdout, stderr = INPUT + numbers(200_000), numbers(1000 * ROUNDS)
    assert result == {
        "language": language,
        "output_bytes": len(stdout) + len(stderr),
        "sha256_stdout": hashlib.sha256(stdout).hexdigest(),
        "sha256_stderr": hashlib.sha256(stderr).hexdigest(),
        "exit_code": 3,
    }
    assert Sandbox.get_info_by_id(sandbox_id).status == "destroyed"


def test_a_bad_key_is_named(language):
    with Program(language, "true", NULLSPACE_API_KEY="ns_live_bad") as program:
        program.give(b"")
        status, output, errors = program.end()
    assert status == 1
    assert output == ""
    assert errors.startswith("follow: API_KEY_INVALID: "), errors
