"""What can be imported and called, and that both flavours have it alike."""

import inspect

import pytest

import nullspace

PAIRS = [
    (nullspace.Sandbox, nullspace.AsyncSandbox),
    (nullspace.Commands, nullspace.AsyncCommands),
    (nullspace.CommandHandle, nullspace.AsyncCommandHandle),
    (nullspace.Process, nullspace.AsyncProcess),
    (nullspace.Files, nullspace.AsyncFiles),
    (nullspace.FileStream, nullspace.AsyncFileStream),
    (nullspace.SandboxPaginator, nullspace.AsyncSandboxPaginator),
    (nullspace.System, nullspace.AsyncSystem),
]


def public(cls):
    return {
        name: getattr(cls, name)
        for name in dir(cls)
        if not name.startswith("_") and callable(getattr(cls, name))
    }


@pytest.mark.parametrize(("blocking", "awaiting"), PAIRS, ids=lambda cls: cls.__name__)
def test_both_flavours_are_alike(blocking, awaiting):
    ours, theirs = public(blocking), public(awaiting)
    assert ours.keys() == theirs.keys()
    for name, method in ours.items():
        mine, other = (inspect.signature(m).parameters for m in (method, theirs[name]))
        assert list(mine) == list(other), name
        for parameter in mine:
            assert mine[parameter].default == other[parameter].default, (name, parameter)
            assert mine[parameter].kind == other[parameter].kind, (name, parameter)
        is_async = inspect.iscoroutinefunction(theirs[name]) or inspect.isasyncgenfunction(theirs[name])
        assert is_async, name


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair[0].__name__)
def test_everything_public_says_what_it_does(pair):
    for cls in pair:
        assert cls.__doc__
        for name, method in public(cls).items():
            assert method.__doc__, f"{cls.__name__}.{name}"


def test_exports():
    assert set(nullspace.__all__) == {
        name
        for name in vars(nullspace)
        if name == "__version__" or (name[0].isupper() and not name.startswith("_"))
    }


def defaults(function):
    return {
        name: parameter.default
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.default is not inspect.Parameter.empty
    }


def test_documented_defaults():
    create = defaults(nullspace.Sandbox.create)
    assert (create["template"], create["vcpus"], create["memory_mb"], create["timeout"]) == (
        "base",
        2,
        512,
        300,
    )
    assert create["internet_access"] is True
    run = nullspace.Commands.run
    assert list(inspect.signature(run).parameters)[1:10] == [
        "cmd",
        "args",
        "timeout",
        "cwd",
        "envs",
        "shell",
        "background",
        "on_stdout",
        "on_stderr",
    ]
    assert (defaults(run)["timeout"], defaults(run)["shell"], defaults(run)["background"]) == (
        30,
        False,
        False,
    )
    assert list(inspect.signature(nullspace.Commands.run_streaming).parameters)[1:] == [
        "cmd",
        "args",
        "on_stdout",
        "on_stderr",
        "timeout",
        "cwd",
        "envs",
        "shell",
    ]
    assert list(inspect.signature(nullspace.Sandbox.run_once).parameters)[:9] == [
        "command",
        "args",
        "template",
        "timeout",
        "envs",
        "vcpus",
        "memory_mb",
        "internet_access",
        "metadata",
    ]
    assert list(inspect.signature(nullspace.Sandbox.list).parameters)[:5] == [
        "state",
        "query",
        "limit",
        "next_token",
        "fields",
    ]
    assert defaults(nullspace.CommandHandle.wait) == {"poll_interval": 0.25, "timeout": None}
    assert defaults(nullspace.Process.code_run) == {"language": "python", "timeout": 30}


def test_records_take_their_documented_fields():
    result = nullspace.CommandResult(0, "out", "err", 7)
    assert (result.exit_code, result.stdout, result.stderr, result.pid, result.signal) == (
        0,
        "out",
        "err",
        7,
        None,
    )
    process = nullspace.ProcessInfo(1, "sleep 5", True)
    assert (process.pid, process.command, process.running) == (1, "sleep 5", True)
    logs = nullspace.CommandLogs("a", "b", "ab")
    assert (logs.stdout, logs.stderr, logs.output, logs.exit_code) == ("a", "b", "ab", None)


def test_a_new_key_is_not_shown():
    assert "ns_live_x" not in repr(
        nullspace.CreatedApiKey("key_1", "n", "ns_live_", "o", ("*",), key="ns_live_x")
    )
