"""Connections break, and nobody loses or gets anything twice."""

import hashlib
import threading
import time
import uuid

import pytest
from cutter import Cutter
from support import raises

from nullspace import Sandbox, SandboxError

NUMBERS = "".join(f"{number}\n" for number in range(1, 500_001)).encode()


@pytest.fixture
def cutter():
    cutter = Cutter()
    yield cutter
    cutter.close()


@pytest.fixture
def far(api, cutter, sandbox):
    """The shared sandbox, by a way that can be cut."""
    far = api.Sandbox.connect(sandbox.id, base_url=cutter.url)
    yield far
    far.close()


def test_output_in_the_foreground(far, cutter):
    pieces = []
    with cutter.every(0.03, times=50):
        result = far.commands.run(
            "for i in 1 2 3 4 5; do seq $((i*100000-99999)) $((i*100000)); sleep 0.2; done",
            shell=True,
            on_stdout=pieces.append,
            binary=True,
            timeout=100,
        )
    assert cutter.count > 2
    assert (result.exit_code, result.lost_bytes) == (0, 0)
    assert hashlib.sha256(result.stdout_bytes).digest() == hashlib.sha256(NUMBERS).digest()
    assert b"".join(pieces) == result.stdout_bytes


def test_output_in_the_background(far, cutter):
    handles = [
        far.commands.run(
            "for i in 1 2 3 4 5; do seq $((i*100000-99999)) $((i*100000)); sleep 0.2; done",
            shell=True,
            background=True,
            on_stdout=callback,
        )
        for callback in (None, lambda text: None)
    ]
    with cutter.every(0.03, times=50):
        results = [handle.wait(timeout=100) for handle in handles]
    assert all(result.stdout_bytes == NUMBERS for result in results)


def test_input(far, cutter):
    data = bytes(range(256)) * 40_000
    with cutter.every(0.03, times=50):
        result = far.commands.run("sleep 0.3; sha256sum", shell=True, input=data, timeout=100)
    assert result.stdout.split()[0] == hashlib.sha256(data).hexdigest()


def test_input_call_by_call(far, cutter):
    handle = far.commands.run("sha256sum", background=True)
    digest = hashlib.sha256()
    with cutter.every(0.03, times=50):
        for number in range(100):
            line = f"{number}\n" * 100
            handle.send_stdin(line)
            digest.update(line.encode())
        handle.close_stdin()
    assert handle.wait(timeout=60).stdout.split()[0] == digest.hexdigest()


def test_a_command_is_started_once(far, cutter, sandbox):
    mark = f"/tmp/once-{uuid.uuid4()}"
    with cutter.every(0.01, times=200):
        for _ in range(20):
            far.commands.run(f"echo x >> {mark}", shell=True)
            far.commands.run(f"echo x >> {mark}", shell=True, background=True).wait(timeout=30)
    assert sandbox.files.read(mark) == "x\n" * 40


def test_files(far, cutter):
    data = bytes(range(256)) * 4096
    with cutter.every(0.05, times=10):
        for _ in range(5):
            far.files.write("/tmp/cut", data)
            assert far.files.read("/tmp/cut", format="bytes") == data


def test_one_creation_makes_one_sandbox(api, cutter):
    mark = str(uuid.uuid4())
    # The server has answered before, so it is known to be there.
    with api.Sandbox.list(base_url=cutter.url), cutter.every(0.05, times=10):
        sandbox = api.Sandbox.create(base_url=cutter.url, metadata={"mark": mark}, memory_mb=256)
    try:
        found = list(api.Sandbox.list(query={"metadata": {"mark": mark}}))
        assert [info.id for info in found] == [sandbox.id]
    finally:
        sandbox.kill()


def test_a_server_that_is_away_for_a_while(far, cutter):
    def back():
        time.sleep(2)
        cutter.is_open = True

    def away():
        cutter.is_open = False
        cutter.cut()
        threading.Thread(target=back).start()

    timer = threading.Timer(0.3, away)
    timer.start()
    result = far.commands.run("for i in 1 2 3 4 5 6 7 8; do echo $i; sleep 0.2; done", shell=True)
    assert result.stdout == "1\n2\n3\n4\n5\n6\n7\n8\n"
    timer.join()


def test_a_stream_of_a_file_says_that_it_was_cut(far, cutter, sandbox):
    sandbox.files.write("/tmp/large", bytes(30 << 20))
    stream = far.files.read("/tmp/large", format="stream")
    with raises(SandboxError, "transport_error") as caught:
        for _ in stream:
            cutter.cut()
    assert caught.value.retryable is True


def test_a_write_that_is_cut_leaves_nothing(far, cutter, sandbox):
    def content():
        yield bytes(3 << 20)
        cutter.cut()
        yield bytes(3 << 20)
        yield bytes(3 << 20)

    sandbox.commands.run("rm", ["-rf", "/tmp/half"])
    with raises(SandboxError, "transport_error"):
        far.files.write("/tmp/half/file", content())
    listing = "ls -A /tmp/half 2>/dev/null | wc -l"
    assert sandbox.commands.run(listing, shell=True).stdout.strip() == "0"


def test_a_run_that_is_cut_is_taken_up_again(api, cutter):
    mark = str(uuid.uuid4())
    line = "for i in 1 2 3 4 5 6; do seq $((i*50000-49999)) $((i*50000)); sleep 0.2; done; exit 7"
    with api.Sandbox.list(base_url=cutter.url), cutter.every(0.1):
        result = api.Sandbox.run_once(
            "sh", ["-c", line], base_url=cutter.url, metadata={"mark": mark}, memory_mb=256
        )
    assert cutter.count > 3
    assert (result.stdout, result.exit_code) == ("".join(f"{n}\n" for n in range(1, 300001)), 7)
    # It ran once, and is gone.
    assert len(list(Sandbox.list("destroyed", query={"metadata": {"mark": mark}}))) == 1
    assert list(Sandbox.list(query={"metadata": {"mark": mark}})) == []
