"""Commands in the background: handles, pids, input, logs, signals."""

import time

import pytest
from support import eventually, raises

from nullspace import ConflictError, NotFoundError, SandboxError, TimeoutError

NO_PID = 2**22 + 1


@pytest.fixture
def start(sandbox):
    """Starts commands that end with the test."""
    handles = []

    def begin(line, **options):
        options.setdefault("shell", True)
        handle = sandbox.commands.run(line, background=True, **options)
        handles.append(handle)
        return handle

    yield begin
    for handle in handles:
        handle.disconnect()
        handle.kill()


class TestStart:
    @pytest.mark.parametrize("callbacks", [False, True])
    def test_it_returns_at_once(self, start, callbacks):
        started = time.monotonic()
        options = {"on_stdout": lambda text: None} if callbacks else {}
        handle = start("sleep 300", **options)
        assert time.monotonic() - started < 10
        assert handle.pid > 0
        assert handle.command_id.startswith("cmd_")

    def test_no_time_limit_unless_one_is_given(self, start):
        with raises(TimeoutError, "exec_timeout") as caught:
            start("echo begun; sleep 300", timeout=1).wait(timeout=30)
        assert caught.value.result.stdout == "begun\n"

    def test_input_in_the_background(self, start):
        assert start("cat", input="given").wait(timeout=30).stdout == "given"
        assert start("cat; echo end", stdin=False).wait(timeout=30).stdout == "end\n"

    def test_envs_cwd_user(self, start):
        handle = start("pwd; id -un; echo $A", envs={"A": "x"}, cwd="/tmp", user="user")
        assert handle.wait(timeout=30).stdout == "/tmp\nuser\nx\n"


class TestWait:
    def test_the_result(self, start):
        result = start("echo out; echo err >&2; exit 7").wait(timeout=30)
        assert (result.exit_code, result.stdout, result.stderr) == (7, "out\n", "err\n")

    def test_again_and_again(self, start):
        handle = start("echo once")
        assert handle.wait(timeout=30) == handle.wait()

    def test_when_the_time_is_up_the_command_runs_on(self, sandbox, start):
        handle = start("echo begun; read x; echo $x")
        for _ in range(2):
            with raises(TimeoutError, "timeout"):
                handle.wait(timeout=0.2)
        assert sandbox.commands.get(handle.pid).running
        handle.send_stdin("go\n")
        assert handle.wait(timeout=30).stdout == "begun\ngo\n"

    def test_poll_interval_is_taken(self, start):
        assert start("true").wait(0.1, 30).exit_code == 0

    def test_it_ends_with_the_sandbox(self, make):
        sandbox = make()
        quiet = sandbox.commands.run("sleep", ["300"], background=True)
        loud = sandbox.commands.run("sleep", ["300"], background=True, on_stdout=lambda text: None)
        sandbox.kill()
        for handle in (quiet, loud):
            started = time.monotonic()
            with raises(ConflictError, "sandbox_stopped"):
                handle.wait()
            assert time.monotonic() - started < 10

    def test_callbacks_are_done_by_then(self, start):
        pieces = []
        result = start("seq 1 10000", on_stdout=pieces.append).wait(timeout=30)
        assert "".join(pieces) == result.stdout
        assert result.stdout.endswith("9999\n10000\n")


class TestIteration:
    def test_pieces_in_order(self, start):
        handle = start("echo one; sleep 0.2; echo err >&2; sleep 0.2; echo two")
        pieces = list(handle)
        assert "".join(out or "" for out, _, _ in pieces) == "one\ntwo\n"
        assert "".join(err or "" for _, err, _ in pieces) == "err\n"
        assert all((out is None) != (err is None) and rest is None for out, err, rest in pieces)
        assert list(handle) == pieces
        assert handle.wait().exit_code == 0

    def test_bytes(self, start):
        pieces = list(start(r"printf '\377\000'").iter_bytes())
        assert b"".join(out for out, _, _ in pieces) == b"\xff\x00"

    def test_it_can_be_left_and_waited_for(self, start):
        handle = start("echo one; read x; echo two")
        for out, _, _ in handle:
            assert out == "one\n"
            break
        handle.send_stdin("\n")
        assert handle.wait(timeout=30).stdout == "one\ntwo\n"

    def test_a_timeout_is_raised_at_the_end(self, start):
        pieces = []
        with raises(TimeoutError, "exec_timeout") as caught:
            for piece in start("echo begun; sleep 300", timeout=1):
                pieces.append(piece)
        assert pieces == [("begun\n", None, None)]
        assert caught.value.result.stdout == "begun\n"

    def test_with_callbacks_too(self, start):
        called = []
        handle = start("seq 1 100", on_stdout=called.append)
        assert "".join(out for out, _, _ in handle) == "".join(called)


class TestConnect:
    def test_by_pid(self, sandbox, start):
        handle = start("echo before; read x; echo $x; exit 4")
        eventually(lambda: handle.get_logs().stdout)
        pieces = []
        other = sandbox.commands.connect(handle.pid, pieces.append)
        assert (other.pid, other.command_id) == (handle.pid, handle.command_id)
        other.send_stdin("after\n")
        assert other.wait(timeout=30).exit_code == 4
        # Nothing is missed by coming late.
        assert "".join(pieces) == "before\nafter\n"
        assert handle.wait(timeout=30).stdout == "before\nafter\n"

    def test_one_that_has_ended(self, sandbox, start):
        handle = start("echo done; exit 5")
        handle.wait(timeout=30)
        result = sandbox.commands.connect(handle.pid).wait(timeout=30)
        assert (result.exit_code, result.stdout) == (5, "done\n")

    def test_readers_do_not_disturb_each_other(self, sandbox, start):
        handle = start("read x; seq 1 20000")
        others = [sandbox.commands.connect(handle.pid, lambda text: None) for _ in range(8)]
        handle.send_stdin("\n")
        results = {other.wait(timeout=60).stdout for other in others}
        assert results == {handle.wait(timeout=60).stdout}

    def test_disconnect(self, sandbox, start):
        pieces = []
        handle = start("echo one; read x; echo two", on_stdout=pieces.append)
        eventually(lambda: pieces)
        handle.disconnect()
        handle.disconnect()
        assert sandbox.commands.get(handle.pid).running
        handle.send_stdin("\n")
        assert handle.wait(timeout=30).stdout == "one\ntwo\n"
        assert pieces == ["one\n"]


class TestInput:
    def test_texts_and_bytes(self, sandbox, start):
        handle = start("cat")
        handle.send_stdin("ü ")
        handle.send_stdin(b"\xff ")
        # By pid and by handle it is one input.
        sandbox.commands.send_stdin(handle.pid, "pid ")
        handle.send_stdin("")
        handle.send_stdin("handle")
        handle.close_stdin()
        assert handle.wait(timeout=30).stdout_bytes == "ü ".encode() + b"\xff pid handle"

    def test_it_is_there_at_once(self, start):
        handle = start("while read line; do echo got $line; done")
        for number in range(5):
            handle.send_stdin(f"{number}\n")
            eventually(lambda number=number: f"got {number}\n" in handle.get_logs().stdout)

    def test_close_by_pid(self, sandbox, start):
        handle = start("cat; echo end")
        sandbox.commands.send_stdin(handle.pid, "x\n")
        sandbox.commands.close_stdin(handle.pid)
        assert handle.wait(timeout=30).stdout == "x\nend\n"
        with raises(ConflictError, "input_closed"):
            sandbox.commands.send_stdin(handle.pid, "more")

    def test_much(self, start):
        handle = start("wc -c")
        handle.send_stdin(b"x" * 3_000_000)
        handle.close_stdin()
        assert handle.wait(timeout=60).stdout.strip() == "3000000"

    def test_one_that_takes_none(self, start):
        handle = start("sleep 300", stdin=False)
        with raises(ConflictError, "input_closed"):
            handle.send_stdin("x")

    def test_one_that_does_not_read(self, sandbox, start):
        handle = start("sleep 1; cat | wc -c")
        with raises(TimeoutError, "timeout"):
            sandbox.commands.send_stdin(handle.pid, b"x" * 5_000_000, request_timeout=0.5)
        # What was taken is not written twice and what was not is not there.
        sandbox.commands.send_stdin(handle.pid, "y")
        sandbox.commands.close_stdin(handle.pid)
        count = int(handle.wait(timeout=60).stdout)
        assert 1 << 20 <= count < 5_000_000


class TestKill:
    def test_it_is_reaped_when_the_call_returns(self, sandbox, start):
        handle = start("sleep 62 & sleep 63; echo no")
        eventually(lambda: sandbox.commands.run("pgrep", ["-x", "sleep"]).stdout.count("\n") >= 2)
        sandbox.commands.kill(handle.pid)
        assert not sandbox.commands.get(handle.pid).running
        assert sandbox.commands.run("ps", ["-p", str(handle.pid)]).exit_code == 1
        assert sandbox.commands.run("pgrep", ["-f", "^sleep 6[23]$"]).stdout == ""
        result = handle.wait(timeout=30)
        assert (result.exit_code, result.signal, result.reason) == (137, 9, "killed_by_user")

    def test_twice_is_fine(self, sandbox, start):
        handle = start("sleep 300")
        handle.kill()
        handle.kill()
        sandbox.commands.kill(handle.pid)

    @pytest.mark.parametrize("pid", [0, -1, NO_PID, 2**31, 2**70])
    def test_unknown_pids(self, sandbox, pid):
        for call in (
            lambda: sandbox.commands.kill(pid),
            lambda: sandbox.commands.connect(pid),
            lambda: sandbox.commands.connect(pid, on_stdout=print),
            lambda: sandbox.commands.get(pid),
            lambda: sandbox.commands.get_logs(pid),
            lambda: sandbox.commands.send_stdin(pid, "x"),
            lambda: sandbox.commands.close_stdin(pid),
            lambda: sandbox.commands.send_signal(pid, 15),
        ):
            with raises(NotFoundError, "command_not_found"):
                call()

    @pytest.mark.parametrize("pid", ["7", 1.5, None])
    def test_what_is_no_pid(self, sandbox, pid):
        with pytest.raises(TypeError):
            sandbox.commands.kill(pid)


class TestSignal:
    @pytest.mark.parametrize("signal", ["USR1", "SIGUSR1", 10])
    def test_names_and_numbers(self, sandbox, start, signal):
        handle = start("trap 'echo caught; exit 3' USR1; echo ready; while :; do sleep 0.05; done")
        eventually(lambda: handle.get_logs().stdout)
        sandbox.commands.send_signal(handle.pid, signal)
        result = handle.wait(timeout=30)
        assert (result.exit_code, result.stdout, result.reason) == (3, "ready\ncaught\n", "exited")

    def test_one_that_ends_it(self, start):
        handle = start("sleep 300")
        handle.send_signal("TERM")
        result = handle.wait(timeout=30)
        assert (result.exit_code, result.reason) == (143, "killed_by_user")

    @pytest.mark.parametrize("signal", [0, -1, 65, 10**10, "NOPE"])
    def test_bad_signals(self, start, signal):
        handle = start("sleep 300")
        with raises(SandboxError, "invalid_request"):
            handle.send_signal(signal)


class TestLogs:
    def test_while_it_runs_and_after(self, sandbox, start):
        handle = start("echo one; echo err >&2; read x; echo two; exit 6")
        logs = eventually(lambda: (found := sandbox.commands.get_logs(handle.pid)).stderr and found)
        assert (logs.stdout, logs.stderr, logs.exit_code) == ("one\n", "err\n", None)
        assert sorted(logs.output.splitlines()) == ["err", "one"]
        handle.send_stdin("\n")
        handle.wait(timeout=30)
        logs = sandbox.commands.get_logs(handle.pid)
        assert (logs.stdout, logs.stderr, logs.exit_code) == ("one\ntwo\n", "err\n", 6)
        assert (logs.offset, logs.next_offset) == (0, 12)

    def test_by_position(self, sandbox, start):
        handle = start("printf 0123456789")
        handle.wait(timeout=30)
        logs = handle.get_logs(offset=3, limit=4)
        assert (logs.stdout, logs.offset, logs.next_offset, logs.output_bytes) == ("3456", 3, 7, b"3456")
        assert handle.get_logs(offset=7).stdout == "789"
        assert handle.get_logs(limit=2).stdout == "01"
        end = sandbox.commands.get_logs(handle.pid, offset=10)
        assert (end.stdout, end.offset, end.next_offset, end.exit_code) == ("", 10, 10, 0)

    def test_read_on_from_where_it_ended(self, start):
        handle = start("seq 1 50000")
        read, position = [], 0
        while True:
            logs = handle.get_logs(offset=position, limit=10_000)
            read.append(logs.output)
            position = logs.next_offset
            if logs.exit_code is not None and not logs.output:
                break
        assert "".join(read) == "".join(f"{number}\n" for number in range(1, 50_001))

    @pytest.mark.parametrize("options", [{"offset": -1}, {"limit": -1}, {"offset": 2**63}])
    def test_bad_positions(self, start, options):
        handle = start("true")
        with raises(SandboxError, "invalid_request"):
            handle.get_logs(**options)

    def test_the_oldest_output_goes_when_too_much_is_kept(self, start):
        handle = start("head -c 100000000 /dev/zero; printf end")
        result = handle.wait(timeout=90)
        assert result.exit_code == 0
        assert len(result.stdout_bytes) + result.lost_bytes == 100_000_003
        logs = handle.get_logs(offset=0)
        assert logs.offset > 0
        assert logs.next_offset == 100_000_003
        assert logs.stdout.endswith("end")


class TestList:
    def test_what_runs(self, sandbox, start):
        handle = start("sleep 300", tag="listed", user="user", cwd="/tmp")
        (process,) = sandbox.commands.list(tag="listed")
        assert (process.pid, process.command, process.running) == (handle.pid, "sleep 300", True)
        assert (process.tag, process.user, process.cwd, process.exit_code) == ("listed", "user", "/tmp", None)
        assert process.started_at is not None
        assert process == sandbox.commands.get(handle.pid)
        handle.kill()
        assert sandbox.commands.list(tag="listed") == []
        (process,) = sandbox.commands.list(tag="listed", running_only=False)
        assert (process.running, process.exit_code) == (False, 137)

    def test_command_lines_read_as_a_shell_takes_them(self, sandbox, start):
        start("sleep", args=["300"], shell=False, tag="argv")
        start("sh", args=["-c", "sleep 300 # a b"], shell=False, tag="quoted")
        assert sandbox.commands.list(tag="argv")[0].command == "sleep 300"
        assert sandbox.commands.list(tag="quoted")[0].command == "sh -c 'sleep 300 # a b'"

    def test_newest_first(self, sandbox, start):
        pids = [start("sleep 300", tag="order").pid for _ in range(3)]
        assert [process.pid for process in sandbox.commands.list(tag="order")] == pids[::-1]

    def test_envs_are_not_told(self, sandbox, start):
        start("sleep 300", tag="secret", envs={"TOKEN": "hunter2"})
        assert "hunter2" not in repr(sandbox.commands.list(tag="secret"))
