"""The server itself, and its API keys."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Optional

from nullspace import _requests, _responses
from nullspace._client import Client
from nullspace._config import resolve
from nullspace._gen.v1 import system_pb2
from nullspace._rpc import (
    CREATE_API_KEY,
    GET_CAPABILITIES,
    GET_VERSION,
    LIST_API_KEYS,
    REVOKE_API_KEY,
    ROTATE_API_KEY,
    WHO_AM_I,
)
from nullspace._wire import Seconds
from nullspace.records import ApiKey, Capabilities, CreatedApiKey, Version


class System:
    """A server. ``api_key``, ``base_url``, ``ca_cert`` and ``request_timeout`` as in :class:`Sandbox`.

    Every method raises :class:`AuthError` for a key that is missing or bad.
    """

    def __init__(
        self,
        *,
        api_key: Optional[str] = None,
        base_url: Optional[str] = None,
        ca_cert: Optional[str] = None,
    ) -> None:
        self._client = Client(resolve(api_key, base_url, ca_cert))

    def version(self, *, request_timeout: Optional[float] = None) -> Version:
        """The server's version."""
        response = self._client.call(GET_VERSION, system_pb2.GetVersionRequest(), request_timeout)
        return _responses.version(response)

    def capabilities(self, *, request_timeout: Optional[float] = None) -> Capabilities:
        """What each engine can do, its limits, and the templates."""
        response = self._client.call(GET_CAPABILITIES, system_pb2.GetCapabilitiesRequest(), request_timeout)
        return _responses.capabilities(response)

    def whoami(self, *, request_timeout: Optional[float] = None) -> ApiKey:
        """The key that calls come with."""
        response = self._client.call(WHO_AM_I, system_pb2.WhoAmIRequest(), request_timeout)
        return _responses.api_key(response.key)

    def create_api_key(
        self,
        name: str = "",
        scopes: Optional[Iterable[str]] = None,
        *,
        owner: Optional[str] = None,
        lifetime: Optional[Seconds] = None,
        idempotency_key: Optional[str] = None,
        request_timeout: Optional[float] = None,
    ) -> CreatedApiKey:
        """Makes an API key.

        Args:
            name: at most 128 bytes.
            scopes: what it may do, such as ``sandbox.read``; ``*`` is
                everything. Default: the scopes of the caller's key.
            owner: whose sandboxes it reaches, ``[a-z0-9-]{1,64}``. Another than
                the caller's needs the scope ``*``. Default: the caller's.
            lifetime: seconds, 1 to 3,650 days. None: it never ends.
            idempotency_key: at most 128 bytes. Default: a random one.
            request_timeout: seconds; 30 by default.

        Returns:
            The key, with ``key`` to be read this one time.

        Raises:
            PermissionError: ``scope_missing``, also for scopes that the caller lacks.
            ConflictError: ``idempotency_key_reused``.
            SandboxError: ``invalid_request``.
        """
        request = _requests.create_api_key(name, scopes, owner, lifetime, idempotency_key)
        return _responses.created_api_key(self._client.call(CREATE_API_KEY, request, request_timeout))

    def list_api_keys(self, *, request_timeout: Optional[float] = None) -> list[ApiKey]:
        """All keys of the caller's owner, newest first, also revoked ones.

        Raises:
            PermissionError: ``scope_missing``.
        """
        keys: list[ApiKey] = []
        request = system_pb2.ListApiKeysRequest(page_size=100)
        while True:
            response = self._client.call(LIST_API_KEYS, request, request_timeout)
            keys.extend(map(_responses.api_key, response.keys))
            request.page_token = response.next_page_token
            if not request.page_token:
                return keys

    def rotate_api_key(
        self,
        key_id: Optional[str] = None,
        *,
        grace: Seconds = 0,
        idempotency_key: Optional[str] = None,
        request_timeout: Optional[float] = None,
    ) -> CreatedApiKey:
        """Makes a key that takes the place of another: same name, owner, scopes and end.

        Args:
            key_id: the key to replace (``key_...``). Default: the caller's own; the
                object goes on with the key that it has, which ends after ``grace``.
            grace: seconds for which the replaced key stays valid, 0 to 7 days.
                Default: none.
            idempotency_key: at most 128 bytes. Default: a random one.
            request_timeout: seconds; 30 by default.

        Returns:
            The new key, with ``key`` to be read this one time.

        Raises:
            NotFoundError: ``api_key_not_found``.
            ConflictError: ``api_key_ended`` for a key that was revoked, has expired
                or was rotated before; ``idempotency_key_reused``.
            PermissionError: ``scope_missing``, also for a key with scopes that the
                caller lacks.
            SandboxError: ``invalid_request``.
        """
        request = _requests.rotate_api_key(key_id, grace, idempotency_key)
        return _responses.created_api_key(self._client.call(ROTATE_API_KEY, request, request_timeout))

    def revoke_api_key(self, key_id: str, *, request_timeout: Optional[float] = None) -> ApiKey:
        """Ends a key at once, by its id (``key_...``). Calls that run with it go on.

        Raises:
            NotFoundError: ``api_key_not_found``.
            PermissionError: ``scope_missing``.
        """
        request = system_pb2.RevokeApiKeyRequest(key_id=_requests.plain_text("key_id", key_id))
        return _responses.api_key(self._client.call(REVOKE_API_KEY, request, request_timeout).key)

    def close(self) -> None:
        """Gives up the connections. A later call connects again."""
        self._client.close()

    def __enter__(self) -> System:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
