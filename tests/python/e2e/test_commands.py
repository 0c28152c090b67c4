"""Commands: in the foreground, with callbacks, with input, and how they end."""

import hashlib
import threading
import time

import pytest
from support import eventually, raises, violations

from nullspace import ConflictError, NotFoundError, SandboxError, TimeoutError


def run(sandbox, line, **options):
    return sandbox.commands.run(line, shell=True, **options)


class TestProgram:
    def test_arguments_keep_their_boundaries(self, sandbox):
        arguments = ["a b", "", "$HOME", "*", "ü\n", "'\"", "-n"]
        result = sandbox.commands.run("printf", ["%s|", *arguments])
        assert result.stdout == "".join(f"{argument}|" for argument in arguments)

    def test_without_shell_the_text_is_the_program(self, sandbox):
        with raises(NotFoundError, "program_not_found") as caught:
            sandbox.commands.run("echo hi")
        assert "shell=True" in caught.value.suggested_action
        assert sandbox.commands.run("pwd").stdout == "/workspace\n"

    def test_a_shell_is_one(self, sandbox):
        result = run(sandbox, "for i in 1 2; do echo $i | cat; done > /dev/stderr; echo $0")
        assert result.stderr == "1\n2\n"
        assert result.stdout.strip().endswith("sh")

    def test_a_shell_takes_no_arguments(self, sandbox):
        with raises(SandboxError, "invalid_request") as caught:
            sandbox.commands.run("echo", ["x"], shell=True)
        assert violations(caught) == {"spec.argv.args"}

    def test_streams_are_kept_apart(self, sandbox):
        result = run(sandbox, "echo out; echo err >&2; exit 3")
        assert (result.exit_code, result.stdout, result.stderr) == (3, "out\n", "err\n")
        assert (result.signal, result.reason, result.lost_bytes) == (None, "exited", 0)
        assert result.pid > 0
        assert 0 < result.wall_time < 10

    @pytest.mark.parametrize("code", [0, 1, 42, 127, 255])
    def test_exit_codes_are_results(self, sandbox, code):
        assert run(sandbox, f"exit {code}").exit_code == code

    @pytest.mark.parametrize(("name", "number"), [("TERM", 15), ("KILL", 9), ("SEGV", 11)])
    def test_ends_by_signal(self, sandbox, name, number):
        result = run(sandbox, f"kill -{name} $$")
        assert (result.exit_code, result.signal, result.reason) == (128 + number, number, "signalled")

    def test_environment(self, sandbox):
        result = run(sandbox, 'echo "$A|${B-unset}"', envs={"A": "ü = x", "PATH": "/usr/bin:/bin"})
        assert result.stdout == "ü = x|unset\n"
        assert run(sandbox, 'echo "${A-unset}"').stdout == "unset\n"

    def test_working_directory(self, sandbox):
        assert sandbox.commands.run("pwd", cwd="/usr/lib").stdout == "/usr/lib\n"

    def test_users(self, sandbox):
        assert run(sandbox, "id -un; echo $HOME").stdout == "root\n/root\n"
        assert run(sandbox, "id -un; id -u; echo $HOME", user="user").stdout == "user\n1000\n/home/user\n"
        assert run(sandbox, "id -u", user="1000").stdout == "1000\n"

    @pytest.mark.parametrize(
        ("options", "cls", "code"),
        [
            ({"cmd": "/no/such/program"}, NotFoundError, "program_not_found"),
            ({"cmd": "no-such-program"}, NotFoundError, "program_not_found"),
            ({"cmd": "/etc/hostname"}, SandboxError, "program_not_executable"),
            ({"cmd": "/etc"}, SandboxError, "program_not_executable"),
            ({"cmd": "true", "cwd": "/no/such/directory"}, SandboxError, "working_directory_invalid"),
            ({"cmd": "true", "cwd": "/etc/hostname"}, SandboxError, "working_directory_invalid"),
            ({"cmd": "true", "user": "nobody-at-all"}, NotFoundError, "user_not_found"),
        ],
    )
    @pytest.mark.parametrize("background", [False, True])
    def test_what_cannot_start(self, sandbox, options, cls, code, background):
        with raises(cls, code) as caught:
            sandbox.commands.run(background=background, **options)
        assert caught.value.request_id

    @pytest.mark.parametrize(
        ("options", "field"),
        [
            ({"cmd": ""}, "argv.args"),
            ({"cmd": "", "shell": True}, "shell"),
            ({"cmd": "a\x00b"}, "argv.args"),
            ({"cmd": "x" * 200_000}, "argv.args"),
            ({"cmd": "true", "args": ["x"] * 10_000}, "argv.args"),
            ({"cmd": "true", "timeout": 0}, "timeout"),
            ({"cmd": "true", "timeout": -1}, "timeout"),
            ({"cmd": "true", "timeout": 31 * 86_400}, "timeout"),
            ({"cmd": "true", "timeout": float("nan")}, "timeout"),
            ({"cmd": "true", "cwd": "relative"}, "cwd"),
            ({"cmd": "true", "cwd": "/workspace/.nullspace"}, "cwd"),
            ({"cmd": "true", "envs": {"A=B": "c"}}, "env"),
            ({"cmd": "true", "envs": {"A": "x" * 140_000}}, "env"),
            ({"cmd": "true", "tag": "t" * 257}, "tag"),
            ({"cmd": "true", "user": "u" * 65}, "user"),
            ({"cmd": "\ud800"}, "argv.args"),
            ({"cmd": ["echo", "hi"]}, "argv.args"),
            ({"cmd": ["echo hi"], "shell": True}, "argv.args"),
            ({"cmd": "echo", "args": "hi"}, "argv.args"),
        ],
    )
    @pytest.mark.parametrize("background", [False, True])
    def test_bad_options_are_named(self, sandbox, options, field, background):
        with raises(SandboxError, "invalid_request") as caught:
            sandbox.commands.run(background=background, **options)
        names = (f"spec.{field}", f"start.{field}")
        assert any(violation.endswith(names) for violation in violations(caught)), violations(caught)

    def test_a_request_that_is_too_large(self, sandbox):
        with raises(SandboxError, "message_too_large"):
            sandbox.commands.run("true", ["x" * 100_000] * 15)


class TestTimeout:
    def test_it_ends_the_whole_group(self, sandbox):
        started = time.monotonic()
        with raises(TimeoutError, "exec_timeout") as caught:
            run(sandbox, "echo begun; echo err >&2; sleep 61 & wait", timeout=1)
        assert time.monotonic() - started < 10
        result = caught.value.result
        assert (result.stdout, result.stderr, result.reason) == ("begun\n", "err\n", "timed_out")
        assert (result.exit_code, result.signal) == (143, 15)
        assert run(sandbox, "pgrep -f 'sleep 61' | grep -v $$ | wc -l").stdout.strip() == "0"

    def test_one_that_ignores_term_is_killed(self, sandbox):
        with raises(TimeoutError, "exec_timeout") as caught:
            run(sandbox, "trap '' TERM; echo begun; while :; do sleep 0.1; done", timeout=1)
        assert (caught.value.result.signal, caught.value.result.reason) == (9, "timed_out")

    def test_none_is_no_limit(self, sandbox):
        assert run(sandbox, "sleep 0.2; echo done", timeout=None).stdout == "done\n"

    def test_fractions(self, sandbox):
        with raises(TimeoutError, "exec_timeout") as caught:
            sandbox.commands.run("sleep", ["60"], timeout=0.25)
        assert 0.2 < caught.value.result.wall_time < 3


class TestInput:
    def test_none_is_an_end_at_once(self, sandbox):
        assert sandbox.commands.run("cat").stdout == ""

    @pytest.mark.parametrize(
        ("given", "expected"), [("ü\n", "ü\n"), (b"\x00\xff", b"\x00\xff"), ("", ""), (b"", b"")]
    )
    def test_text_and_bytes(self, sandbox, given, expected):
        result = sandbox.commands.run("cat", input=given)
        assert (result.stdout_bytes if isinstance(expected, bytes) else result.stdout) == expected

    def test_more_than_a_window(self, sandbox):
        data = bytes(range(256)) * 20_000
        result = sandbox.commands.run("sha256sum", input=data)
        assert result.stdout.split()[0] == hashlib.sha256(data).hexdigest()

    def test_there_and_back(self, sandbox):
        data = bytes(range(256)) * 20_000
        assert sandbox.commands.run("cat", input=data).stdout_bytes == data

    def test_a_program_that_does_not_read(self, sandbox):
        assert sandbox.commands.run("true", input=b"x" * 5_000_000).exit_code == 0


class TestOutput:
    def test_binary(self, sandbox):
        result = sandbox.commands.run("printf", [r"\000\377\200x"])
        assert result.stdout_bytes == b"\x00\xff\x80x"
        assert result.stdout == "\x00\ufffd\ufffdx"

    def test_much(self, sandbox):
        result = run(sandbox, "seq 1 1000000; seq 1 100000 >&2")
        assert (
            hashlib.sha256(result.stdout_bytes).hexdigest() == hashlib.sha256(numbers(1_000_000)).hexdigest()
        )
        assert result.stderr_bytes == numbers(100_000)

    def test_more_than_is_kept(self, sandbox):
        count = 0

        def add(data):
            nonlocal count
            count += len(data)

        # 64 MiB are kept at most: the command waits for this reader.
        result = run(sandbox, "head -c 100000000 /dev/zero", on_stdout=add, binary=True, timeout=90)
        assert (result.exit_code, result.lost_bytes, count) == (0, 0, 100_000_000)

    def test_the_exit_does_not_wait_for_descendants(self, sandbox):
        started = time.monotonic()
        assert run(sandbox, "sleep 30 & echo now").stdout == "now\n"
        assert time.monotonic() - started < 10
        run(sandbox, "pkill -x sleep")


def numbers(count):
    return "".join(f"{number}\n" for number in range(1, count + 1)).encode()


class TestCallbacks:
    def test_text_as_it_comes(self, sandbox):
        # The program goes on only when its first line has arrived here.
        out, err = [], []

        def take(text):
            out.append(text)
            gone_on.set()

        gone_on = threading.Event()

        def go():
            gone_on.wait()
            sandbox.files.write("/tmp/go", "")

        waiter = threading.Thread(target=go)
        waiter.start()
        line = "rm -f /tmp/go; echo one; echo err >&2; until [ -e /tmp/go ]; do sleep 0.02; done; echo two"
        result = run(sandbox, line, on_stdout=take, on_stderr=err.append)
        waiter.join()
        assert "".join(out) == result.stdout == "one\ntwo\n"
        assert "".join(err) == result.stderr == "err\n"

    def test_no_character_is_split(self, sandbox):
        pieces = []
        code = (
            "import sys\n"
            "for byte in ('ü€😀' * 50).encode():\n"
            "    sys.stdout.buffer.write(bytes([byte]))\n"
            "    sys.stdout.flush()"
        )
        result = sandbox.commands.run("python3", ["-c", code], on_stdout=pieces.append)
        assert "".join(pieces) == "ü€😀" * 50 == result.stdout

    @pytest.mark.parametrize("binary", [False, True])
    def test_large_pieces(self, sandbox, binary):
        # The lines have 12 bytes, so that pieces end within characters.
        size, pieces = 32 << 20, []
        line = f"yes ß€😀é | head -c {size}"
        result = run(sandbox, line, on_stdout=pieces.append, binary=binary, timeout=90)
        expected = ("ß€😀é\n".encode() * (size // 12 + 1))[:size]
        # Else none went the way of large ones.
        assert max(len(piece if binary else piece.encode()) for piece in pieces) > 64 << 10
        if binary:
            assert b"".join(pieces) == expected
        else:
            assert "".join(pieces) == expected.decode(errors="replace")
        assert result.stdout_bytes == expected
        assert result.stdout == expected.decode(errors="replace")

    def test_run_streaming(self, sandbox):
        out, err = [], []
        result = sandbox.commands.run_streaming(
            "printf '%s' \"$A\"; echo err >&2", None, out.append, err.append, 10, "/tmp", {"A": "x"}, True
        )
        assert (result.exit_code, "".join(out), "".join(err)) == (0, "x", "err\n")

    @pytest.mark.parametrize("background", [False, True])
    def test_what_a_callback_raises_is_the_caller_s(self, sandbox, background):
        class Mine(Exception):
            pass

        def fail(text):
            raise Mine(text)

        options = {"on_stdout": fail, "background": background, "tag": f"raise-{background}"}
        with pytest.raises(Mine):  # noqa: PT012 - which of the two raises depends on `background`
            handle = run(sandbox, "echo x; sleep 300", **options)
            handle.wait(timeout=30)
        if not background:
            # Nobody would ever know how it ends: it is killed.
            eventually(lambda: not sandbox.commands.list(tag=f"raise-{background}"))
        else:
            (process,) = sandbox.commands.list(tag=f"raise-{background}")
            sandbox.commands.kill(process.pid)


class TestCodeRun:
    @pytest.mark.parametrize(
        ("language", "code"),
        [
            ("python", "print('a b', 6*7)"),
            ("javascript", "console.log('a b', 6*7)"),
            ("bash", "echo a b $((6*7))"),
            ("sh", "echo a b $((6*7))"),
        ],
    )
    def test_languages(self, sandbox, language, code):
        assert sandbox.process.code_run(code, language).stdout == "a b 42\n"

    def test_defaults_and_errors(self, sandbox):
        result = sandbox.process.code_run("import sys; sys.exit('no')")
        assert (result.exit_code, result.stderr) == (1, "no\n")
        with raises(NotFoundError, "program_not_found"):
            sandbox.process.code_run("1", "cobol")
        with raises(TimeoutError, "exec_timeout"):
            sandbox.process.code_run("while True: pass", timeout=1)


def test_many_threads_on_one_sandbox(sandbox):
    failures = []

    def work(number):
        try:
            for turn in range(5):
                assert run(sandbox, f"echo {number}.{turn}").stdout == f"{number}.{turn}\n"
                sandbox.files.write(f"/tmp/thread-{number}", f"{turn}")
                assert sandbox.files.read(f"/tmp/thread-{number}") == f"{turn}"
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_more_streams_than_a_connection_takes(sandbox):
    # 120 commands that are followed at once, and a single call among them.
    handles = [
        run(sandbox, "read line; echo $line", background=True, on_stdout=lambda text: None)
        for _ in range(120)
    ]
    assert sandbox.is_running()
    for number, handle in enumerate(handles):
        handle.send_stdin(f"{number}\n")
    assert [handle.wait(timeout=60).stdout for handle in handles] == [f"{number}\n" for number in range(120)]


def test_out_of_memory(make):
    sandbox = make(memory_mb=256)
    result = sandbox.process.code_run(
        "x = bytearray(1 << 30)\nfor i in range(0, len(x), 4096): x[i] = 1", timeout=60
    )
    assert (result.exit_code, result.reason) == (137, "out_of_memory")
    assert sandbox.commands.run("echo", ["alive"]).stdout == "alive\n"


def test_conflict_is_told_apart(sandbox):
    handle = run(sandbox, "true", background=True)
    handle.wait(timeout=30)
    with raises(ConflictError, "command_ended"):
        handle.send_signal("TERM")
