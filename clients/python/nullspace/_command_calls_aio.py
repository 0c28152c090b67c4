"""Calls about commands that exist, for the async client."""

from __future__ import annotations

import asyncio
from typing import Optional, Union

from nullspace import _requests
from nullspace._client_aio import AsyncClient
from nullspace._command_requests import KILL, WAIT_CALL_TIMEOUT, CommandRequests, InputCursor, found
from nullspace._follow_aio import closing, read
from nullspace._gen.v1 import command_pb2
from nullspace._logs import LogSlice
from nullspace._rpc import LIST_COMMANDS, SIGNAL_COMMAND, WAIT_COMMAND, WRITE_COMMAND_INPUT
from nullspace._stream import Reading
from nullspace.errors import ConflictError, NotFoundError
from nullspace.records import CommandLogs


class AsyncCommandCalls:
    """What :class:`AsyncCommands` and :class:`AsyncCommandHandle` both do to a command."""

    def __init__(self, client: AsyncClient, sandbox_id: str) -> None:
        self.client = client
        self.sandbox_id = sandbox_id
        self.requests = CommandRequests(sandbox_id)
        self._inputs: dict[str, tuple[asyncio.Lock, InputCursor]] = {}
        self._by_pid: dict[int, str] = {}

    async def find(self, pid: int, request_timeout: Optional[float] = None) -> command_pb2.CommandInfo:
        """The newest command with this pid, or the error that there is none."""
        return found(pid, await self.client.call(LIST_COMMANDS, self.requests.find(pid), request_timeout))

    async def kill(self, command_id: str, request_timeout: Optional[float] = None) -> None:
        """Ends a command, and waits until it has ended. One that has ended is fine."""
        try:
            await self.signal(command_id, KILL, request_timeout)
        except ConflictError as error:
            if error.code != "command_ended":
                raise
            return
        request = self.requests.wait(command_id)
        while True:
            response = await self.client.call(WAIT_COMMAND, request, WAIT_CALL_TIMEOUT)
            if response.command.HasField("exit"):
                return

    async def signal(
        self, command_id: str, signal: Union[int, str], request_timeout: Optional[float] = None
    ) -> None:
        """Sends a signal."""
        request = self.requests.signal(command_id, _requests.signal_number(signal))
        await self.client.call(SIGNAL_COMMAND, request, request_timeout)

    async def write(
        self,
        command_id: str,
        data: Union[str, bytes],
        *,
        close: bool = False,
        request_timeout: Optional[float] = None,
    ) -> None:
        """Writes input, after all that was written by this object before."""
        payload = _requests.payload(data)
        lock, cursor = self._inputs.setdefault(
            command_id, (asyncio.Lock(), InputCursor(self.sandbox_id, command_id))
        )
        async with lock:
            for request in cursor.requests(payload, close=close):
                cursor.accept(await self.client.call(WRITE_COMMAND_INPUT, request, request_timeout))
        if close:
            self._inputs.pop(command_id, None)

    async def write_to_pid(
        self, pid: int, data: Union[str, bytes], *, close: bool, request_timeout: Optional[float]
    ) -> None:
        """The same by pid, which is looked up once."""
        known = self._by_pid.get(pid)
        if known is not None:
            try:
                return await self.write(known, data, close=close, request_timeout=request_timeout)
            except (ConflictError, NotFoundError) as error:
                # The pid may have come again, with another command.
                self._by_pid.pop(pid, None)
                if (await self.find(pid, request_timeout)).command_id == known:
                    raise error from None
        command_id = self._by_pid[pid] = (await self.find(pid, request_timeout)).command_id
        return await self.write(command_id, data, close=close, request_timeout=request_timeout)

    async def logs(
        self, info: command_pb2.CommandInfo, offset: Optional[int], limit: Optional[int]
    ) -> CommandLogs:
        """What is kept of a command's output."""
        logs = LogSlice(info, offset, limit)
        events = read(self.client, Reading(self.sandbox_id, info.command_id, logs.log, follow=False))
        async with closing(events):
            async for event in events:
                if not logs.add(event):
                    break
        return logs.result()
