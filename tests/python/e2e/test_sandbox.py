"""The life of a sandbox."""

import time
import uuid
from datetime import datetime, timedelta, timezone

import pytest
from support import eventually, raises, violations

from nullspace import AuthError, ConflictError, NotFoundError, PermissionError, SandboxError, TimeoutError

MISSING = "sb_00000000000000000000000000"


def test_the_reference_snippet(api, capsys):
    with api.Sandbox.create(template="base", timeout=300) as sandbox:
        print(sandbox.id)
        print(sandbox.commands.run("echo ready", shell=True).stdout)
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith("sb_")
    assert len(printed[0]) == 29
    assert printed[1] == "ready"
    assert api.Sandbox.get_info_by_id(sandbox.id).status == "destroyed"


def test_defaults_of_create(api, sandbox):
    info = sandbox.get_info()
    assert (info.id, info.status, info.template) == (sandbox.id, "running", "base")
    assert (info.vcpus, info.memory_mb) == (2, 512)
    assert info.cwd == sandbox.cwd == "/workspace"
    assert info.timeout_action == "destroy"
    assert info.metadata == {}
    assert info.internet_access is True
    assert info.expires_at == info.timeout_at
    assert abs(info.started_at + timedelta(milliseconds=info.timeout_ms) - info.expires_at) < timedelta(
        seconds=1
    )
    assert info.created_at.tzinfo is timezone.utc
    assert info.created_at <= info.started_at <= datetime.now(timezone.utc)
    assert info.execution_id
    assert info.incarnation == 1


def test_options_of_create(make):
    metadata = {"name": "ü", "n": 7, "f": 0.5, "list": [1, None, {"x": True}], "big": 2**53}
    sandbox = make(
        vcpus=1,
        memory_mb=256,
        disk_mb=1024,
        timeout=600,
        timeout_action="destroy",
        envs={"GREETING": "hällo", "EMPTY": ""},
        metadata=metadata,
        cwd="/srv/deep/down",
        internet_access=False,
    )
    info = sandbox.get_info()
    assert (info.config.vcpus, info.config.memory_mb, info.config.disk_mb) == (1, 256, 1024)
    assert info.timeout_ms == 600_000
    assert info.metadata == metadata
    assert type(info.metadata["n"]) is int
    assert info.internet_access is False
    assert sandbox.cwd == "/srv/deep/down"
    result = sandbox.commands.run('pwd; echo "$GREETING"; echo "${EMPTY-unset}"', shell=True)
    assert result.stdout == "/srv/deep/down\nhällo\n\n"


def test_a_sandbox_without_end(make):
    info = make(timeout=None).get_info()
    assert (info.timeout_ms, info.expires_at) == (None, None)


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"vcpus": 0}, "spec.resources.vcpus"),
        ({"vcpus": -1}, "spec.resources.vcpus"),
        ({"vcpus": 65}, "spec.resources.vcpus"),
        ({"vcpus": 10**15}, "spec.resources.vcpus"),
        ({"memory_mb": 0}, "spec.resources.memory_mib"),
        ({"memory_mb": 127}, "spec.resources.memory_mib"),
        ({"memory_mb": 2**31 - 1}, "spec.resources.memory_mib"),
        ({"disk_mb": 0}, "spec.resources.disk_mib"),
        ({"disk_mb": 131_073}, "spec.resources.disk_mib"),
        ({"timeout": 0}, "spec.lifetime.timeout"),
        ({"timeout": -5}, "spec.lifetime.timeout"),
        ({"timeout": 0.5}, "spec.lifetime.timeout"),
        ({"timeout": 30 * 86_400 + 1}, "spec.lifetime.timeout"),
        ({"timeout": float("inf")}, "spec.lifetime.timeout"),
        ({"cwd": "relative"}, "spec.cwd"),
        ({"cwd": "/a/../b"}, "spec.cwd"),
        ({"cwd": "/workspace/.nullspace/x"}, "spec.cwd"),
        ({"envs": {"A=B": "x"}}, "spec.envs"),
        ({"envs": {"": "x"}}, "spec.envs"),
        ({"metadata": {"n": 2**53 + 1}}, "spec.metadata.n"),
        ({"metadata": {"n": 1e300}}, "spec.metadata.n"),
        ({"metadata": {"text": "x" * 70_000}}, "spec.metadata"),
        ({"on_timeout": "pause"}, "timeout_action"),
        ({"idempotency_key": "k" * 129}, "idempotency_key"),
    ],
)
def test_bad_options_are_named(api, options, field):
    with raises(SandboxError, "invalid_request") as caught:
        api.Sandbox.create(**options)
    assert field in violations(caught)
    assert caught.value.retryable is False


def test_all_bad_options_are_named_at_once(api):
    with raises(SandboxError, "invalid_request") as caught:
        api.Sandbox.create(vcpus=0, memory_mb=1, timeout=0, cwd="x")
    assert violations(caught) == {
        "spec.resources.vcpus",
        "spec.resources.memory_mib",
        "spec.lifetime.timeout",
        "spec.cwd",
    }
    assert caught.value.request_id


@pytest.mark.parametrize("template", ["nope", "Base", "../base"])
def test_an_unknown_template(api, template):
    with pytest.raises(SandboxError) as caught:
        api.Sandbox.create(template=template)
    assert isinstance(caught.value, NotFoundError)
    assert caught.value.code == "template_not_found"
    assert caught.value.request_id
    assert caught.value.suggested_action


class TestKeys:
    def test_no_key(self, api, monkeypatch, tmp_path):
        monkeypatch.delenv("NULLSPACE_API_KEY")
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
        monkeypatch.chdir(tmp_path)
        with raises(AuthError, "unauthorized"):
            api.Sandbox.create()

    @pytest.mark.parametrize("key", ["wrong", "ns_live_" + "0" * 64])
    def test_a_wrong_key(self, api, key):
        for call in (
            lambda: api.Sandbox.create(api_key=key),
            lambda: api.Sandbox.list(api_key=key),
            lambda: api.Sandbox.get_info_by_id(MISSING, api_key=key),
            lambda: api.Sandbox.run_once("true", api_key=key),
        ):
            with raises(AuthError, "unauthorized") as caught:
                call()
            assert caught.value.request_id

    def test_a_key_without_the_scope(self, api, scoped_key, sandbox):
        key = scoped_key("sandbox.read")
        assert api.Sandbox.get_info_by_id(sandbox.id, api_key=key).id == sandbox.id
        for call in (
            lambda: api.Sandbox.create(api_key=key),
            lambda: api.Sandbox.connect(sandbox.id, api_key=key),
            lambda: api.Sandbox.kill_by_id(sandbox.id, api_key=key),
            lambda: api.Sandbox.run_once("true", api_key=key),
        ):
            with raises(PermissionError, "scope_missing") as caught:
                call()
            assert caught.value.details["metadata"]["scope"] == "sandbox.write"
        writer = api.Sandbox.connect(sandbox.id, api_key=scoped_key("sandbox.write"))
        for call, scope in (
            (lambda: writer.commands.run("true"), "process.exec"),
            (lambda: writer.commands.run("true", background=True), "process.exec"),
            (lambda: writer.commands.list(), "process.read"),
            (lambda: writer.files.read("/etc/hostname"), "file.read"),
            (lambda: writer.files.write("/tmp/x", "x"), "file.write"),
            (lambda: writer.get_info(), "sandbox.read"),
        ):
            with raises(PermissionError, "scope_missing") as caught:
                call()
            assert caught.value.details["metadata"]["scope"] == scope
        writer.close()

    def test_another_owner_s_sandbox_is_not_there(self, api, system, sandbox):
        key = system.create_api_key("other", ["*"], owner="someone-else")
        try:
            for call in (
                lambda: api.Sandbox.get_info_by_id(sandbox.id, api_key=key.key),
                lambda: api.Sandbox.connect(sandbox.id, api_key=key.key),
                lambda: api.Sandbox.kill_by_id(sandbox.id, api_key=key.key),
            ):
                with raises(NotFoundError, "sandbox_not_found"):
                    call()
            assert list(api.Sandbox.list(api_key=key.key)) == []
        finally:
            api.System(api_key=key.key).revoke_api_key(key.id)


class TestMissing:
    def test_by_id(self, api):
        for call in (
            lambda: api.Sandbox.get_info_by_id(MISSING),
            lambda: api.Sandbox.get_metrics_by_id(MISSING),
            lambda: api.Sandbox.kill_by_id(MISSING),
            lambda: api.Sandbox.connect(MISSING),
        ):
            with raises(NotFoundError, "sandbox_not_found") as caught:
                call()
            assert caught.value.details["resource"]["name"] == MISSING

    @pytest.mark.parametrize("sandbox_id", ["", "x", "sb_" + "é" * 13, "sb_" * 100, "a/b", "\x00"])
    def test_ids_that_are_none(self, api, sandbox_id):
        with pytest.raises(SandboxError) as caught:
            api.Sandbox.get_info_by_id(sandbox_id)
        assert caught.value.code in ("sandbox_not_found", "invalid_request")


class TestConnect:
    def test_same_sandbox(self, api, make):
        first = make(cwd="/srv")
        second = api.Sandbox.connect(first.id)
        assert (second.id, second.cwd) == (first.id, "/srv")
        first.files.write("shared", "x")
        assert second.files.read("shared") == "x"
        second.close()
        assert first.is_running()

    def test_it_extends_and_never_shortens(self, api, make):
        sandbox = make(timeout=300)
        before = sandbox.get_info().expires_at
        api.Sandbox.connect(sandbox.id, timeout=30).close()
        assert sandbox.get_info().expires_at == before
        api.Sandbox.connect(sandbox.id, timeout=900).close()
        extended = sandbox.get_info().expires_at
        assert timedelta(seconds=590) < extended - before < timedelta(seconds=610)
        api.Sandbox.connect(sandbox.id).close()
        assert sandbox.get_info().expires_at == extended

    @pytest.mark.parametrize("timeout", [0, -1, 31 * 86_400])
    def test_bad_timeouts(self, api, sandbox, timeout):
        with raises(SandboxError, "invalid_request"):
            api.Sandbox.connect(sandbox.id, timeout=timeout)

    def test_what_is_destroyed_cannot_be_connected(self, api, make):
        sandbox = make()
        sandbox.kill()
        with raises(ConflictError, "sandbox_stopped"):
            api.Sandbox.connect(sandbox.id)


class TestKill:
    def test_twice_is_fine(self, api, make):
        sandbox = make()
        sandbox.kill()
        assert not sandbox.is_running()
        sandbox.kill()
        api.Sandbox.kill_by_id(sandbox.id)
        info = sandbox.get_info()
        assert info.status == "destroyed"
        assert info.ended_at >= info.started_at

    def test_nothing_works_in_it_any_more(self, make):
        sandbox = make()
        sandbox.kill()
        for call in (
            lambda: sandbox.commands.run("true"),
            lambda: sandbox.commands.run("true", background=True),
            lambda: sandbox.commands.list(),
            lambda: sandbox.commands.kill(1),
            lambda: sandbox.files.read("/etc/hostname"),
            lambda: sandbox.files.read("/etc/hostname", format="stream"),
            lambda: sandbox.files.write("/tmp/x", "x"),
            lambda: sandbox.set_timeout(60),
        ):
            with raises(ConflictError, "sandbox_stopped"):
                call()

    def test_leaving_the_block_swallows_what_the_api_says(self, api, make):
        with make() as sandbox:
            api.Sandbox.kill_by_id(sandbox.id)

    def test_leaving_the_block_passes_on_what_was_raised(self, api, make):
        with pytest.raises(KeyError), make() as sandbox:
            raise KeyError("mine")
        assert not sandbox.is_running()

    def test_close_lets_it_run(self, api, make):
        sandbox = make()
        sandbox.close()
        sandbox.close()
        assert sandbox.is_running()


class TestTimeout:
    def test_set_timeout_counts_from_now(self, make):
        sandbox = make(timeout=60)
        sandbox.set_timeout(1000)
        info = sandbox.get_info()
        left = info.expires_at - datetime.now(timezone.utc)
        assert timedelta(seconds=990) < left <= timedelta(seconds=1001)
        assert info.timeout_ms == 1_000_000
        sandbox.set_timeout(120, "destroy")
        assert sandbox.get_info().expires_at < info.expires_at
        sandbox.set_timeout(None)
        assert sandbox.get_info().expires_at is None

    def test_zero_ends_it_now(self, api, make):
        sandbox = make()
        sandbox.set_timeout(0)
        eventually(lambda: sandbox.get_info().status == "destroyed")

    def test_it_lives_until_then_and_no_longer(self, make):
        sandbox = make(timeout=3)
        born = time.monotonic()
        while sandbox.is_running():
            assert time.monotonic() - born < 8, "it outlived its timeout"
            if time.monotonic() - born < 2:
                assert sandbox.commands.run("echo", ["alive"]).stdout == "alive\n"
        assert time.monotonic() - born > 2.5

    @pytest.mark.parametrize("timeout", [-1, 30 * 86_400 + 1, float("nan")])
    def test_bad_timeouts(self, sandbox, timeout):
        with raises(SandboxError, "invalid_request") as caught:
            sandbox.set_timeout(timeout)
        assert violations(caught) == {"timeout"}

    def test_other_actions_are_refused(self, sandbox):
        with raises(SandboxError, "invalid_request"):
            sandbox.set_timeout(60, "hibernate")


class TestIdempotency:
    def test_one_key_makes_one_sandbox(self, api, make):
        key = str(uuid.uuid4())
        first, second = make(idempotency_key=key), make(idempotency_key=key)
        assert first.id == second.id

    def test_one_key_for_two_requests_is_refused(self, make):
        key = str(uuid.uuid4())
        make(idempotency_key=key)
        with raises(ConflictError, "idempotency_key_reused"):
            make(idempotency_key=key, timeout=301)

    def test_set_timeout_with_a_key(self, make):
        sandbox, key = make(), str(uuid.uuid4())
        sandbox.set_timeout(500, idempotency_key=key)
        expires_at = sandbox.get_info().expires_at
        sandbox.set_timeout(500, idempotency_key=key)
        assert sandbox.get_info().expires_at == expires_at
        with raises(ConflictError, "idempotency_key_reused"):
            sandbox.set_timeout(501, idempotency_key=key)


class TestFields:
    def test_of_one(self, api, sandbox):
        assert api.Sandbox.get_info_by_id(sandbox.id, fields=["id", "status"]) == {
            "id": sandbox.id,
            "status": "running",
        }
        found = sandbox.get_info(fields="config,timeout_ms,config")
        assert found == {
            "config": {"vcpus": 2, "memory_mb": 512, "disk_mb": found["config"]["disk_mb"]},
            "timeout_ms": 1_800_000,
        }
        assert sandbox.cwd == "/workspace"

    @pytest.mark.parametrize("fields", [["nope"], "", [], "snapshot_id"])
    def test_unknown(self, api, sandbox, fields):
        for call in (
            lambda: sandbox.get_info(fields=fields),
            lambda: api.Sandbox.get_info_by_id(sandbox.id, fields=fields),
            lambda: api.Sandbox.list(fields=fields),
        ):
            with raises(SandboxError, "invalid_fields"):
                call()


class TestList:
    @pytest.fixture
    def family(self, make):
        """Five sandboxes that a mark tells from all others, oldest first."""
        mark = str(uuid.uuid4())
        return mark, [
            make(metadata={"mark": mark, "n": n, "deep": {"x": [1]}}, memory_mb=128).id for n in range(5)
        ]

    def test_pages(self, api, family):
        mark, ids = family
        query = {"metadata": {"mark": mark}}
        pages = api.Sandbox.list(query=query, limit=2)
        assert [info.id for info in pages.items] == ids[:2:-1]
        assert (len(pages), pages[0].id, pages.has_next) == (2, ids[4], True)
        token = pages.next_token
        assert [info.id for info in pages.next_items()] == ids[2:0:-1]
        assert [info.id for info in pages.next_items()] == ids[:1]
        assert (pages.has_next, pages.next_token) == (False, None)
        assert pages.next_items() == []
        pages.close()
        with api.Sandbox.list(query=query, limit=2, next_token=token) as later:
            assert [info.id for info in later] == ids[2::-1]
        assert [info.id for info in api.Sandbox.list(query=query, limit=1)] == ids[::-1]

    def test_filters(self, api, family):
        mark, ids = family

        def found(shortcut=None, **query):
            metadata = {"mark": mark, **query.pop("metadata", {})}
            return [info.id for info in api.Sandbox.list(shortcut, query={**query, "metadata": metadata})]

        assert found(metadata={"n": 3}) == [ids[3]]
        assert found(metadata={"deep": {"x": [1]}}) == ids[::-1]
        assert found(metadata={"n": 9}) == []
        assert found(template="base") == ids[::-1]
        assert found(template="other") == []
        assert found("running") == ids[::-1]
        assert found("error") == []
        api.Sandbox.kill_by_id(ids[0])
        assert found() == ids[:0:-1]
        assert found("destroyed") == [ids[0]]
        assert found(["running", "destroyed"]) == ids[::-1]
        # The query's states win over the shortcut.
        assert found("running", state="destroyed") == [ids[0]]

    def test_pages_are_stable_while_sandboxes_come_and_go(self, api, make, family):
        mark, ids = family
        pages = api.Sandbox.list(query={"metadata": {"mark": mark}}, limit=2)
        make(metadata={"mark": mark}, memory_mb=128)
        api.Sandbox.kill_by_id(ids[1])
        assert [info.id for info in pages] == [ids[4], ids[3], ids[2], ids[0]]

    def test_fields(self, api, family):
        mark, ids = family
        query = {"metadata": {"mark": mark}}
        assert api.Sandbox.list(query=query, fields=["id", "status"]) == [
            {"id": id, "status": "running"} for id in ids[::-1]
        ]
        assert api.Sandbox.list(query=query, fields="id", limit=2) == [{"id": id} for id in ids[:2:-1]]

    @pytest.mark.parametrize("limit", [0, -1, 101, 10**12])
    def test_bad_limits(self, api, limit):
        with raises(SandboxError, "invalid_request") as caught:
            api.Sandbox.list(limit=limit)
        assert violations(caught) == {"page_size"}

    @pytest.mark.parametrize("token", ["not one!", "\x00", "x" * 10_000])
    def test_bad_tokens(self, api, token):
        with raises(SandboxError, "invalid_request"):
            api.Sandbox.list(next_token=token)

    def test_unknown_states(self, api):
        with raises(SandboxError, "invalid_request"):
            api.Sandbox.list("sleeping")


def test_metrics(api, sandbox):
    sandbox.commands.run("head -c 1000000 /dev/zero > /var/tmp/some", shell=True)
    samples = eventually(lambda: sandbox.get_metrics())
    last = samples[-1]
    assert last.cpu_count == 2
    assert last.cpu_percent >= 0
    assert 0 < last.mem_used_bytes < last.mem_total_bytes == 512 << 20
    assert 0 < last.disk_used_bytes < last.disk_total_bytes
    assert last.network_rx_bytes >= 0
    assert last.network_tx_bytes >= 0
    assert abs(datetime.now(timezone.utc) - last.timestamp) < timedelta(seconds=60)
    assert samples == sorted(samples, key=lambda sample: sample.timestamp)
    assert api.Sandbox.get_metrics_by_id(sandbox.id)[-1].cpu_count == 2


def test_the_time_of_a_request(api, sandbox):
    with raises(TimeoutError, "timeout"):
        sandbox.get_info(request_timeout=1e-6)
    with raises(TimeoutError, "timeout"):
        api.Sandbox.create(request_timeout=0)


def test_a_server_that_is_not_there(api):
    started = time.monotonic()
    with raises(SandboxError, "transport_error") as caught:
        api.Sandbox.create(base_url="http://127.0.0.1:1")
    assert caught.value.retryable is True
    assert time.monotonic() - started < 5
