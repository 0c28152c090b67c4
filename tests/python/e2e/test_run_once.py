"""One command in a sandbox of its own."""

import uuid

import pytest
from support import eventually, raises

from nullspace import ConflictError, NotFoundError, SandboxError, TimeoutError


def mine(api, mark, state=None):
    return list(api.Sandbox.list(state, query={"metadata": {"mark": mark}}))


def test_it_runs_and_leaves_nothing(api):
    mark = str(uuid.uuid4())
    result = api.Sandbox.run_once(
        "sh",
        ["-c", 'echo "$A" two; echo err >&2; exit 3'],
        envs={"A": "one"},
        metadata={"mark": mark},
        memory_mb=256,
    )
    assert (result.exit_code, result.stdout, result.stderr) == (3, "one two\n", "err\n")
    assert mine(api, mark) == []
    (record,) = mine(api, mark, "destroyed")
    assert record.memory_mb == 256


def test_arguments_keep_their_boundaries(api):
    result = api.Sandbox.run_once("printf", ["[%s]", "a b", "", "$HOME;*"])
    assert result.stdout == "[a b][][$HOME;*]"


def test_a_timeout(api):
    mark = str(uuid.uuid4())
    with raises(TimeoutError, "exec_timeout") as caught:
        api.Sandbox.run_once("sh", ["-c", "echo begun; sleep 60"], timeout=1, metadata={"mark": mark})
    assert caught.value.result.stdout == "begun\n"
    assert eventually(lambda: not mine(api, mark))


def test_a_program_that_is_not_there(api):
    mark = str(uuid.uuid4())
    with raises(NotFoundError, "program_not_found") as caught:
        api.Sandbox.run_once("no such thing", metadata={"mark": mark})
    assert "shell" in caught.value.suggested_action
    assert eventually(lambda: not mine(api, mark))


def test_a_key_is_good_for_one_run(api):
    key = str(uuid.uuid4())
    assert api.Sandbox.run_once("true", idempotency_key=key).exit_code == 0
    with raises(ConflictError, "idempotency_key_reused"):
        api.Sandbox.run_once("true", idempotency_key=key)


def test_much_output(api):
    result = api.Sandbox.run_once("sh", ["-c", "head -c 8000000 /dev/zero"], memory_mb=256)
    assert result.stdout_bytes == bytes(8_000_000)


@pytest.mark.parametrize("options", [{"timeout": 0}, {"timeout": -1}, {"vcpus": 0}, {"memory_mb": 1}])
def test_bad_options(api, options):
    with raises(SandboxError, "invalid_request"):
        api.Sandbox.run_once("true", **options)


def test_an_unknown_template(api):
    with raises(NotFoundError, "template_not_found"):
        api.Sandbox.run_once("true", template="nope")
