"""The server itself, and its API keys, for the async client."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Optional

from nullspace import _requests, _responses
from nullspace._client_aio import AsyncClient
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


class AsyncSystem:
    """A server. As :class:`System`, with await."""

    def __init__(
        self,
        *,
        api_key: Optional[str] = None,
        base_url: Optional[str] = None,
        ca_cert: Optional[str] = None,
    ) -> None:
        self._client = AsyncClient(resolve(api_key, base_url, ca_cert))

    async def version(self, *, request_timeout: Optional[float] = None) -> Version:
        """As :meth:`System.version`."""
        response = await self._client.call(GET_VERSION, system_pb2.GetVersionRequest(), request_timeout)
        return _responses.version(response)

    async def capabilities(self, *, request_timeout: Optional[float] = None) -> Capabilities:
        """As :meth:`System.capabilities`."""
        response = await self._client.call(
            GET_CAPABILITIES, system_pb2.GetCapabilitiesRequest(), request_timeout
        )
        return _responses.capabilities(response)

    async def whoami(self, *, request_timeout: Optional[float] = None) -> ApiKey:
        """As :meth:`System.whoami`."""
        response = await self._client.call(WHO_AM_I, system_pb2.WhoAmIRequest(), request_timeout)
        return _responses.api_key(response.key)

    async def create_api_key(
        self,
        name: str = "",
        scopes: Optional[Iterable[str]] = None,
        *,
        owner: Optional[str] = None,
        lifetime: Optional[Seconds] = None,
        idempotency_key: Optional[str] = None,
        request_timeout: Optional[float] = None,
    ) -> CreatedApiKey:
        """As :meth:`System.create_api_key`."""
        request = _requests.create_api_key(name, scopes, owner, lifetime, idempotency_key)
        response = await self._client.call(CREATE_API_KEY, request, request_timeout)
        return _responses.created_api_key(response)

    async def list_api_keys(self, *, request_timeout: Optional[float] = None) -> list[ApiKey]:
        """As :meth:`System.list_api_keys`."""
        keys: list[ApiKey] = []
        request = system_pb2.ListApiKeysRequest(page_size=100)
        while True:
            response = await self._client.call(LIST_API_KEYS, request, request_timeout)
            keys.extend(map(_responses.api_key, response.keys))
            request.page_token = response.next_page_token
            if not request.page_token:
                return keys

    async def rotate_api_key(
        self,
        key_id: Optional[str] = None,
        *,
        grace: Seconds = 0,
        idempotency_key: Optional[str] = None,
        request_timeout: Optional[float] = None,
    ) -> CreatedApiKey:
        """As :meth:`System.rotate_api_key`."""
        request = _requests.rotate_api_key(key_id, grace, idempotency_key)
        response = await self._client.call(ROTATE_API_KEY, request, request_timeout)
        return _responses.created_api_key(response)

    async def revoke_api_key(self, key_id: str, *, request_timeout: Optional[float] = None) -> ApiKey:
        """As :meth:`System.revoke_api_key`."""
        request = system_pb2.RevokeApiKeyRequest(key_id=_requests.plain_text("key_id", key_id))
        return _responses.api_key((await self._client.call(REVOKE_API_KEY, request, request_timeout)).key)

    async def close(self) -> None:
        """As :meth:`System.close`."""
        await self._client.close()

    async def __aenter__(self) -> AsyncSystem:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
