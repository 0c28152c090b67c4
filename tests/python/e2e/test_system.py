"""The server, and its API keys."""

from datetime import timedelta

import pytest
from support import raises

from nullspace import AuthError, ConflictError, NotFoundError, PermissionError, SandboxError


def test_version(system):
    version = system.version()
    assert version.version.count(".") == 2
    assert len(version.instance_id) == 8


def test_capabilities(system):
    capabilities = system.capabilities()
    assert sum(engine.is_default for engine in capabilities.engines) == 1
    engine = next(engine for engine in capabilities.engines if engine.is_default)
    assert engine.vcpus == (1, 64)
    assert engine.memory_mb == (128, 262_144)
    assert engine.disk_mb == (512, 131_072)
    assert "base" in [template.name for template in capabilities.templates]


def test_whoami(system):
    key = system.whoami()
    assert key.id.startswith("key_")
    assert key.scopes == ("*",)
    assert key.owner == "default"


def test_the_life_of_a_key(api, system):
    created = system.create_api_key("mine", ["sandbox.read"], lifetime=3600)
    assert created.key.startswith("ns_live_")
    assert created.key.startswith(created.prefix)
    assert created.key not in repr(created)
    assert (created.name, created.scopes, created.owner) == ("mine", ("sandbox.read",), "default")
    assert abs(created.expires_at - created.created_at - timedelta(hours=1)) < timedelta(seconds=5)
    assert created.revoked_at is None
    keys = system.list_api_keys()
    assert created.id in [key.id for key in keys]
    assert keys == sorted(keys, key=lambda key: key.created_at, reverse=True)
    with api.System(api_key=created.key) as other:
        assert other.whoami().id == created.id
        revoked = system.revoke_api_key(created.id)
        assert revoked.revoked_at is not None
        assert system.revoke_api_key(created.id).revoked_at == revoked.revoked_at
        with raises(AuthError, "unauthorized"):
            other.whoami()


def test_a_rotated_key(api, system, scoped_key):
    with api.System(api_key=scoped_key("key.write")) as old:
        before = old.whoami()
        rotated = old.rotate_api_key(grace=3600)
        assert rotated.key.startswith(rotated.prefix)
        assert rotated.key not in repr(rotated)
        assert (rotated.scopes, rotated.rotated_from, rotated.rotated_to) == (before.scopes, before.id, None)
        assert old.whoami().rotated_to == rotated.id
        with raises(ConflictError, "api_key_ended"):
            system.rotate_api_key(before.id)
    with api.System(api_key=rotated.key) as new:
        assert new.whoami().id == rotated.id
        last = system.rotate_api_key(rotated.id, idempotency_key="rotate-" + rotated.id)
        again = system.rotate_api_key(rotated.id, idempotency_key="rotate-" + rotated.id)
        assert (last.id, last.key) == (again.id, again.key)
        with raises(AuthError, "unauthorized"):
            new.whoami()
    system.revoke_api_key(last.id)
    with raises(NotFoundError, "api_key_not_found"):
        system.rotate_api_key("key_00000000000000000000000000")
    with raises(SandboxError, "invalid_request"):
        system.rotate_api_key(grace=8 * 86_400)


def test_a_key_gives_only_what_it_has(api, system, scoped_key):
    with api.System(api_key=scoped_key("key.write", "sandbox.read")) as small:
        own = small.create_api_key("child")
        system.revoke_api_key(own.id)
        assert set(own.scopes) == {"key.write", "sandbox.read"}
        with raises(PermissionError, "scope_missing"):
            small.create_api_key("more", ["sandbox.write"])
        with raises(PermissionError, "scope_missing"):
            small.create_api_key("else", ["sandbox.read"], owner="other")
        with raises(PermissionError, "scope_missing"):
            small.list_api_keys()


def test_one_key_makes_one_api_key(system):
    first = system.create_api_key("once", ["sandbox.read"], idempotency_key="test-" + system.whoami().id)
    again = system.create_api_key("once", ["sandbox.read"], idempotency_key="test-" + system.whoami().id)
    assert (first.id, first.key) == (again.id, again.key)
    with raises(ConflictError, "idempotency_key_reused"):
        system.create_api_key("twice", ["sandbox.read"], idempotency_key="test-" + system.whoami().id)
    system.revoke_api_key(first.id)


def test_more_keys_than_a_page(system):
    made = [system.create_api_key(f"page {n}", ["sandbox.read"]).id for n in range(101)]
    listed = [key.id for key in system.list_api_keys()]
    for key_id in made:
        system.revoke_api_key(key_id)
    assert listed[:101] == made[::-1]


@pytest.mark.parametrize(
    "options",
    [
        {"name": "n" * 129},
        {"lifetime": 0},
        {"lifetime": -1},
        {"lifetime": 3651 * 86_400},
        {"owner": "Not Allowed"},
        {"scopes": ["nope"]},
        {"scopes": [""]},
    ],
)
def test_bad_requests(system, options):
    with raises(SandboxError, "invalid_request"):
        system.create_api_key(**options)


def test_a_key_that_is_not_there(system):
    with raises(NotFoundError, "api_key_not_found"):
        system.revoke_api_key("key_00000000000000000000000000")
