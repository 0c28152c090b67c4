"""Values pass the wire unbent, or are refused by name."""

import math
from datetime import timedelta, timezone

import pytest

from nullspace import SandboxError
from nullspace._gen.v1 import sandbox_pb2
from nullspace._requests import (
    SandboxOptions,
    create_sandbox,
    field_names,
    list_sandboxes,
    run,
    run_once,
    set_sandbox_timeout,
    signal_number,
)
from nullspace._responses import sandbox_fields, sandbox_info
from nullspace._wire import Checks, metadata_of, seconds_of


def violations(call, *args, **kwargs):
    with pytest.raises(SandboxError) as caught:
        call(*args, **kwargs)
    assert caught.value.code == "invalid_request"
    return [violation["field"] for violation in caught.value.details["violations"]]


def through_metadata(metadata):
    checks = Checks()
    struct = checks.metadata("metadata", metadata)
    checks.finish()
    return metadata_of(
        sandbox_pb2.SandboxSpec.FromString(
            sandbox_pb2.SandboxSpec(metadata=struct).SerializeToString()
        ).metadata
    )


@pytest.mark.parametrize(
    "metadata",
    [
        {},
        {"a": 1, "b": 1.5, "c": "ü", "d": True, "e": False, "f": None},
        {"nested": {"list": [1, [2, {"x": []}], {}], "empty": {}}},
        {"big": 2**53, "small": -(2**53)},
        {"": 0},
    ],
)
def test_metadata_comes_back_as_it_went(metadata):
    back = through_metadata(metadata)
    assert back == metadata
    assert {name: type(value) for name, value in back.items()} == {
        name: type(value) for name, value in metadata.items()
    }


def test_whole_doubles_come_back_as_ints():
    assert type(through_metadata({"n": 2.0})["n"]) is int


def test_tuples_are_lists():
    assert through_metadata({"t": (1, 2)}) == {"t": [1, 2]}


@pytest.mark.parametrize(
    ("metadata", "field"),
    [
        ({"n": 2**53 + 1}, "metadata.n"),
        ({"n": {"m": [-(2**53) - 1]}}, "metadata.n.m[0]"),
        ({"n": 10**400}, "metadata.n"),
        ({"n": math.nan}, "metadata.n"),
        ({"n": math.inf}, "metadata.n"),
        ({1: "x"}, "metadata"),
        ({"o": object()}, "metadata.o"),
        ({"b": b"bytes"}, "metadata.b"),
        ({"s": "\ud800"}, "metadata.s"),
        (["list"], "metadata"),
    ],
)
def test_metadata_that_the_wire_would_bend_is_refused(metadata, field):
    assert violations(through_metadata, metadata) == [field]


def test_metadata_that_holds_itself_is_refused():
    metadata = {}
    metadata["self"] = metadata
    assert len(violations(through_metadata, metadata)) == 1


def test_all_bad_fields_are_named_at_once():
    options = SandboxOptions(
        vcpus=10**12,
        memory_mb="512",
        disk_mb=2.5,
        timeout=math.nan,
        envs={"A": 1},
        metadata={"n": 2**60},
        cwd="\ud800",
    )
    assert violations(create_sandbox, options, None) == [
        "spec.resources.vcpus",
        "spec.resources.memory_mib",
        "spec.resources.disk_mib",
        "spec.lifetime.timeout",
        "spec.metadata.n",
        "spec.envs.A",
        "spec.cwd",
    ]


@pytest.mark.parametrize("seconds", [0, 1, 0.25, 1e-9, 30 * 86_400, -1, -0.5, 1.9999999999])
def test_durations(seconds):
    checks = Checks()
    duration = checks.duration("timeout", seconds)
    checks.finish()
    assert math.isclose(seconds_of(duration), seconds, abs_tol=1e-9)
    # Sign and range as protobuf asks for them.
    assert abs(duration.nanos) < 1_000_000_000
    assert duration.seconds * duration.nanos >= 0


@pytest.mark.parametrize("seconds", [math.nan, math.inf, -math.inf, 1e300, 10**20, "5", True])
def test_durations_that_cannot_be(seconds):
    def make():
        checks = Checks()
        checks.duration("timeout", seconds)
        checks.finish()

    assert violations(make) == ["timeout"]


class TestCreate:
    def spec(self, **options):
        return create_sandbox(SandboxOptions(**options), None).spec

    def test_defaults(self):
        spec = self.spec()
        assert spec.template == "base"
        assert (spec.resources.vcpus, spec.resources.memory_mib) == (2, 512)
        assert not spec.resources.HasField("disk_mib")
        assert spec.lifetime.timeout.seconds == 300
        assert spec.internet_access is True

    def test_memory_of_a_code_interpreter(self):
        assert self.spec(template="code-interpreter").resources.memory_mib == 2048
        assert self.spec(template="code-interpreter", memory_mb=512).resources.memory_mib == 512
        assert self.spec(template="code-interpreter-2").resources.memory_mib == 512

    def test_no_timeout_is_for_ever(self):
        spec = self.spec(timeout=None)
        assert spec.HasField("lifetime")
        assert not spec.lifetime.HasField("timeout")

    def test_keys_are_random_unless_given(self):
        keys = {create_sandbox(SandboxOptions(), None).idempotency_key for _ in range(3)}
        assert len(keys) == 3
        assert create_sandbox(SandboxOptions(), "mine").idempotency_key == "mine"

    @pytest.mark.parametrize("action", ["hibernate", "pause", ""])
    def test_actions(self, action):
        if action:
            assert violations(create_sandbox, SandboxOptions(on_timeout=action), None) == ["timeout_action"]
        assert self.spec(on_timeout="destroy").lifetime.action == sandbox_pb2.TIMEOUT_ACTION_DESTROY


class TestRun:
    def run(self, cmd="ls", args=None, timeout=30, **options):
        defaults = {
            "shell": False,
            "background": False,
            "user": None,
            "stdin": None,
            "input": None,
            "tag": None,
        }
        return run(cmd, args, timeout, None, None, **{**defaults, **options})

    def test_arguments_keep_their_boundaries(self):
        assert list(self.run("a b", ["c d", ""]).spec.argv.args) == ["a b", "c d", ""]
        assert self.run("a b | c", shell=True).spec.shell == "a b | c"

    def test_shell_takes_no_arguments(self):
        assert violations(self.run, "a", ["b"], shell=True) == ["spec.argv.args"]
        assert self.run("a", [], shell=True).spec.shell == "a"

    def test_a_text_is_no_list_of_arguments(self):
        assert violations(self.run, "ls", "-l") == ["spec.argv.args"]

    def test_timeout_of_foreground_and_background(self):
        from nullspace._limits import COMMAND_TIMEOUT

        assert COMMAND_TIMEOUT == 30
        assert self.run(timeout=COMMAND_TIMEOUT).spec.timeout.seconds == 30
        assert not self.run(timeout=COMMAND_TIMEOUT, background=True).spec.HasField("timeout")
        assert self.run(timeout=30, background=True).spec.timeout.seconds == 30
        assert not self.run(timeout=None).spec.HasField("timeout")

    def test_stdin(self):
        assert not self.run().spec.open_stdin
        assert self.run(background=True).spec.open_stdin
        assert not self.run(background=True, stdin=False).spec.open_stdin
        assert self.run(stdin=True).spec.open_stdin
        given = self.run(input="ü", stdin=False)
        assert (given.spec.open_stdin, given.stdin) == (True, "ü".encode())

    def test_run_once_outlives_its_command(self):
        def lifetime(timeout):
            return run_once("x", None, timeout, SandboxOptions(), None)[1].sandbox.lifetime

        assert lifetime(30).timeout.seconds == 300
        assert lifetime(1000).timeout.seconds == 1060
        assert not lifetime(None).HasField("timeout")


def test_set_timeout_keeps_zero_and_none_apart():
    assert set_sandbox_timeout("sb_1", 0, None, None).HasField("timeout")
    assert not set_sandbox_timeout("sb_1", None, None, None).HasField("timeout")


class TestList:
    def test_query_and_shortcut(self):
        request = list_sandboxes("running", {"template": "base", "metadata": {"a": 1}}, 5, "token", None)
        assert list(request.states) == [sandbox_pb2.SANDBOX_STATE_RUNNING]
        assert (request.template, request.page_size, request.page_token) == ("base", 5, "token")
        assert metadata_of(request.metadata) == {"a": 1}

    def test_states_of_the_query_win(self):
        request = list_sandboxes("running", {"state": ["error", "destroyed"]}, None, None, None)
        assert list(request.states) == [sandbox_pb2.SANDBOX_STATE_ERROR, sandbox_pb2.SANDBOX_STATE_DESTROYED]

    def test_what_is_not_known_is_refused(self):
        assert violations(list_sandboxes, "sleeping", {"color": 1}, None, None, None) == [
            "query.color",
            "states",
        ]


class TestFields:
    def test_names(self):
        assert field_names("id, status,id") == ["id", "status"]
        assert field_names(["cwd"]) == ["cwd"]

    @pytest.mark.parametrize(
        "fields", ["", [], "id,", ["nope"], "snapshot_id", ["id", "traffic_access_token"]]
    )
    def test_unknown_or_none(self, fields):
        with pytest.raises(SandboxError) as caught:
            field_names(fields)
        assert caught.value.code == "invalid_fields"

    def test_dictionaries_have_just_those(self):
        sandbox = sandbox_pb2.Sandbox(id="sb_1", state=sandbox_pb2.SANDBOX_STATE_RUNNING)
        sandbox.resources.vcpus = 2
        assert sandbox_fields(sandbox, ["status", "id", "config"]) == {
            "status": "running",
            "id": "sb_1",
            "config": {"vcpus": 2, "memory_mb": 0, "disk_mb": 0},
        }


def test_sandbox_record():
    sandbox = sandbox_pb2.Sandbox(id="sb_1", state=sandbox_pb2.SANDBOX_STATE_DESTROYING, template="base")
    sandbox.lifetime.timeout.FromMilliseconds(1500)
    sandbox.created_at.FromSeconds(1_700_000_000)
    sandbox.expires_at.FromSeconds(1_700_000_300)
    info = sandbox_info(sandbox)
    assert (info.status, info.timeout_ms, info.timeout_action) == ("destroying", 1500, "destroy")
    assert info.timeout_at == info.expires_at == info.created_at + timedelta(seconds=300)
    assert info.created_at.tzinfo is timezone.utc
    assert info.started_at is None
    assert sandbox_info(sandbox_pb2.Sandbox(state=77)).status == "unknown_77"


def test_signals():
    assert (
        signal_number("TERM")
        == signal_number("SIGTERM")
        == signal_number("sigterm")
        == signal_number(15)
        == 15
    )
    assert signal_number("USR1") == 10
    assert signal_number("SYS") == 31
    assert violations(signal_number, "NOPE") == ["number"]
