"""The async client's sandbox."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from types import TracebackType
from typing import Any, List, Literal, Optional, Union, overload

from nullspace import _follow_aio, _requests, _responses
from nullspace._client_aio import AsyncClient
from nullspace._config import resolve
from nullspace._gen.v1 import sandbox_pb2
from nullspace._limits import (
    COMMAND_TIMEOUT,
    CREATE_TIMEOUT,
    MEMORY_MB,
    SANDBOX_TIMEOUT,
    VCPUS,
)
from nullspace._output import Collector
from nullspace._requests import Fields, SandboxOptions, SandboxQuery, States
from nullspace._rpc import (
    CONNECT_SANDBOX,
    CREATE_SANDBOX,
    DESTROY_SANDBOX,
    GET_SANDBOX,
    GET_SANDBOX_METRICS,
    LIST_SANDBOXES,
    SET_SANDBOX_TIMEOUT,
)
from nullspace._stream import Running
from nullspace._wire import Seconds
from nullspace.async_commands import AsyncCommands, AsyncProcess
from nullspace.async_files import AsyncFiles
from nullspace.async_paginator import AsyncSandboxPaginator
from nullspace.errors import NotFoundError, SandboxError
from nullspace.records import CommandResult, SandboxInfo, SandboxMetrics


class AsyncSandbox:
    """A running sandbox. As :class:`Sandbox`, with await.

    ``async with await AsyncSandbox.create() as sandbox`` destroys it at the end.
    One belongs to the event loop in which it is used first.
    """

    def __init__(self, client: AsyncClient, record: sandbox_pb2.Sandbox) -> None:
        self._client = client
        #: ``sb_`` and 26 characters.
        self.id: str = record.id
        #: Where commands start and relative paths begin.
        self.cwd: str = record.cwd
        self.commands = AsyncCommands(client, record.id)
        self.files = AsyncFiles(client, record.id)
        #: The same as ``files``.
        self.filesystem = self.files
        self.process = AsyncProcess(self.commands)

    def __repr__(self) -> str:
        return f"<AsyncSandbox {self.id}>"

    @classmethod
    async def create(
        cls,
        template: str = "base",
        *,
        vcpus: int = VCPUS,
        memory_mb: int = MEMORY_MB,
        disk_mb: Optional[int] = None,
        timeout: Optional[Seconds] = SANDBOX_TIMEOUT,
        timeout_action: Optional[Literal["destroy"]] = None,
        on_timeout: Optional[Literal["destroy"]] = None,
        envs: Optional[Mapping[str, str]] = None,
        metadata: Optional[Mapping[str, Any]] = None,
        internet_access: bool = True,
        cwd: Optional[str] = None,
        idempotency_key: Optional[str] = None,
        api_key: Optional[str] = None,
        base_url: Optional[str] = None,
        ca_cert: Optional[str] = None,
        request_timeout: Optional[float] = None,
    ) -> AsyncSandbox:
        """As :meth:`Sandbox.create`."""
        client = AsyncClient(resolve(api_key, base_url, ca_cert))
        options = SandboxOptions(
            template=template,
            vcpus=vcpus,
            memory_mb=memory_mb,
            disk_mb=disk_mb,
            timeout=timeout,
            timeout_action=timeout_action,
            on_timeout=on_timeout,
            envs=envs,
            metadata=metadata,
            internet_access=internet_access,
            cwd=cwd,
        )
        async with _closed_on_error(client):
            request = _requests.create_sandbox(options, idempotency_key)
            limit = CREATE_TIMEOUT if request_timeout is None else request_timeout
            return cls(client, (await client.call(CREATE_SANDBOX, request, limit, creates=True)).sandbox)

    @classmethod
    async def connect(
        cls,
        sandbox_id: str,
        timeout: Optional[Seconds] = None,
        *,
        api_key: Optional[str] = None,
        base_url: Optional[str] = None,
        ca_cert: Optional[str] = None,
        request_timeout: Optional[float] = None,
    ) -> AsyncSandbox:
        """As :meth:`Sandbox.connect`."""
        client = AsyncClient(resolve(api_key, base_url, ca_cert))
        async with _closed_on_error(client):
            request = _requests.connect_sandbox(sandbox_id, timeout)
            return cls(client, (await client.call(CONNECT_SANDBOX, request, request_timeout)).sandbox)

    @overload
    @classmethod
    async def list(
        cls,
        state: Optional[States] = ...,
        query: Union[SandboxQuery, Mapping[str, Any], None] = ...,
        limit: Optional[int] = ...,
        next_token: Optional[str] = ...,
        fields: None = ...,
        *,
        api_key: Optional[str] = ...,
        base_url: Optional[str] = ...,
        ca_cert: Optional[str] = ...,
        request_timeout: Optional[float] = ...,
    ) -> AsyncSandboxPaginator: ...

    @overload
    @classmethod
    async def list(
        cls,
        state: Optional[States] = ...,
        query: Union[SandboxQuery, Mapping[str, Any], None] = ...,
        limit: Optional[int] = ...,
        next_token: Optional[str] = ...,
        *,
        fields: Fields,
        api_key: Optional[str] = ...,
        base_url: Optional[str] = ...,
        ca_cert: Optional[str] = ...,
        request_timeout: Optional[float] = ...,
    ) -> List[dict[str, Any]]: ...

    @classmethod
    async def list(
        cls,
        state: Optional[States] = None,
        query: Union[SandboxQuery, Mapping[str, Any], None] = None,
        limit: Optional[int] = None,
        next_token: Optional[str] = None,
        fields: Optional[Fields] = None,
        *,
        api_key: Optional[str] = None,
        base_url: Optional[str] = None,
        ca_cert: Optional[str] = None,
        request_timeout: Optional[float] = None,
    ) -> Union[AsyncSandboxPaginator, List[dict[str, Any]]]:
        """As :meth:`Sandbox.list`."""
        client = AsyncClient(resolve(api_key, base_url, ca_cert))
        async with _closed_on_error(client):
            names = None if fields is None else _requests.field_names(fields)
            request = _requests.list_sandboxes(state, query, limit, next_token, names)
            if names is None:
                return await AsyncSandboxPaginator(client, request, request_timeout)._load()
        async with client:
            found: List[dict[str, Any]] = []
            while True:
                response = await client.call(LIST_SANDBOXES, request, request_timeout)
                found.extend(_responses.sandbox_fields(sandbox, names) for sandbox in response.sandboxes)
                request.page_token = response.next_page_token
                if limit is not None or not request.page_token:
                    return found

    @overload
    @classmethod
    async def get_info_by_id(
        cls,
        sandbox_id: str,
        fields: None = ...,
        *,
        api_key: Optional[str] = ...,
        base_url: Optional[str] = ...,
        ca_cert: Optional[str] = ...,
        request_timeout: Optional[float] = ...,
    ) -> SandboxInfo: ...

    @overload
    @classmethod
    async def get_info_by_id(
        cls,
        sandbox_id: str,
        fields: Fields,
        *,
        api_key: Optional[str] = ...,
        base_url: Optional[str] = ...,
        ca_cert: Optional[str] = ...,
        request_timeout: Optional[float] = ...,
    ) -> dict[str, Any]: ...

    @classmethod
    async def get_info_by_id(
        cls,
        sandbox_id: str,
        fields: Optional[Fields] = None,
        *,
        api_key: Optional[str] = None,
        base_url: Optional[str] = None,
        ca_cert: Optional[str] = None,
        request_timeout: Optional[float] = None,
    ) -> Union[SandboxInfo, dict[str, Any]]:
        """As :meth:`Sandbox.get_info_by_id`."""
        async with AsyncClient(resolve(api_key, base_url, ca_cert)) as client:
            return (await _get_info(client, sandbox_id, fields, request_timeout))[1]

    @classmethod
    async def get_metrics_by_id(
        cls,
        sandbox_id: str,
        *,
        api_key: Optional[str] = None,
        base_url: Optional[str] = None,
        ca_cert: Optional[str] = None,
        request_timeout: Optional[float] = None,
    ) -> List[SandboxMetrics]:
        """As :meth:`Sandbox.get_metrics_by_id`."""
        async with AsyncClient(resolve(api_key, base_url, ca_cert)) as client:
            return await _get_metrics(client, sandbox_id, request_timeout)

    @classmethod
    async def kill_by_id(
        cls,
        sandbox_id: str,
        *,
        api_key: Optional[str] = None,
        base_url: Optional[str] = None,
        ca_cert: Optional[str] = None,
        request_timeout: Optional[float] = None,
    ) -> None:
        """As :meth:`Sandbox.kill_by_id`."""
        async with AsyncClient(resolve(api_key, base_url, ca_cert)) as client:
            await _kill(client, sandbox_id, request_timeout)

    @classmethod
    async def run_once(
        cls,
        command: str,
        args: Optional[Sequence[str]] = None,
        template: str = "base",
        timeout: Optional[Seconds] = COMMAND_TIMEOUT,
        envs: Optional[Mapping[str, str]] = None,
        vcpus: int = VCPUS,
        memory_mb: int = MEMORY_MB,
        internet_access: bool = True,
        metadata: Optional[Mapping[str, Any]] = None,
        *,
        idempotency_key: Optional[str] = None,
        api_key: Optional[str] = None,
        base_url: Optional[str] = None,
        ca_cert: Optional[str] = None,
    ) -> CommandResult:
        """As :meth:`Sandbox.run_once`."""
        run, request = _requests.run_once(
            command,
            args,
            timeout,
            SandboxOptions(
                template=template,
                vcpus=vcpus,
                memory_mb=memory_mb,
                envs=envs,
                metadata=metadata,
                internet_access=internet_access,
            ),
            idempotency_key,
        )
        running, collector = Running(request), Collector()
        async with AsyncClient(resolve(api_key, base_url, ca_cert)) as client:
            try:
                events = _follow_aio.read(client, running)
                async with _follow_aio.closing(events):
                    async for event in events:
                        collector.add(event)
            except SandboxError as error:
                raise _requests.explain_start(error, run) from None
            except BaseException:
                await _end_run(client, running.sandbox_id)
                raise
            await _end_run(client, running.sandbox_id)
        return collector.result(running.log.lost_bytes)

    @overload
    async def get_info(
        self, fields: None = ..., *, request_timeout: Optional[float] = ...
    ) -> SandboxInfo: ...

    @overload
    async def get_info(self, fields: Fields, *, request_timeout: Optional[float] = ...) -> dict[str, Any]: ...

    async def get_info(
        self, fields: Optional[Fields] = None, *, request_timeout: Optional[float] = None
    ) -> Union[SandboxInfo, dict[str, Any]]:
        """As :meth:`Sandbox.get_info`."""
        record, info = await _get_info(self._client, self.id, fields, request_timeout)
        self.cwd = record.cwd or self.cwd
        return info

    async def is_running(self, *, request_timeout: Optional[float] = None) -> bool:
        """As :meth:`Sandbox.is_running`."""
        try:
            info = await self.get_info(["status"], request_timeout=request_timeout)
            return bool(info["status"] == "running")
        except NotFoundError:
            return False

    async def get_metrics(self, *, request_timeout: Optional[float] = None) -> List[SandboxMetrics]:
        """As :meth:`Sandbox.get_metrics`."""
        return await _get_metrics(self._client, self.id, request_timeout)

    async def set_timeout(
        self,
        timeout_secs: Optional[Seconds],
        timeout_action: Optional[Literal["destroy"]] = None,
        *,
        idempotency_key: Optional[str] = None,
        request_timeout: Optional[float] = None,
    ) -> None:
        """As :meth:`Sandbox.set_timeout`."""
        request = _requests.set_sandbox_timeout(self.id, timeout_secs, timeout_action, idempotency_key)
        await self._client.call(SET_SANDBOX_TIMEOUT, request, request_timeout)

    async def kill(self, *, request_timeout: Optional[float] = None) -> None:
        """As :meth:`Sandbox.kill`."""
        try:
            await _kill(self._client, self.id, request_timeout)
        finally:
            await self.close()

    async def close(self) -> None:
        """As :meth:`Sandbox.close`."""
        await self._client.close()

    async def __aenter__(self) -> AsyncSandbox:
        return self

    async def __aexit__(
        self,
        kind: Optional[type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        with contextlib.suppress(SandboxError):
            await self.kill()


@contextlib.asynccontextmanager
async def _closed_on_error(client: AsyncClient) -> AsyncIterator[None]:
    try:
        yield
    except BaseException:
        await client.close()
        raise


async def _get_info(
    client: AsyncClient, sandbox_id: str, fields: Optional[Fields], request_timeout: Optional[float]
) -> tuple[sandbox_pb2.Sandbox, Union[SandboxInfo, dict[str, Any]]]:
    names = None if fields is None else _requests.field_names(fields)
    request = _requests.get_sandbox(sandbox_id, names)
    record = (await client.call(GET_SANDBOX, request, request_timeout)).sandbox
    return record, _responses.info_or_fields(record, names)


async def _get_metrics(
    client: AsyncClient, sandbox_id: str, request_timeout: Optional[float]
) -> List[SandboxMetrics]:
    request = sandbox_pb2.GetSandboxMetricsRequest(sandbox_id=_requests.plain_text("sandbox_id", sandbox_id))
    return _responses.metrics(await client.call(GET_SANDBOX_METRICS, request, request_timeout))


async def _kill(client: AsyncClient, sandbox_id: str, request_timeout: Optional[float]) -> None:
    request = sandbox_pb2.DestroySandboxRequest(sandbox_id=_requests.plain_text("sandbox_id", sandbox_id))
    await client.call(DESTROY_SANDBOX, request, request_timeout)


async def _end_run(client: AsyncClient, sandbox_id: str) -> None:
    """The sandbox goes without this as well, half a minute later."""
    with contextlib.suppress(SandboxError):
        if sandbox_id:
            await _kill(client, sandbox_id, None)
