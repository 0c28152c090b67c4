"""Follows a command to its end, over as many streams as that takes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

from nullspace._client_aio import AsyncClient
from nullspace._limits import COMMAND_SILENCE
from nullspace._retry import StreamRetries
from nullspace._rpc import ATTACH_COMMAND
from nullspace._stream import Attachment, Ended, Event, Q, R, Readable, Started, cut_short
from nullspace.errors import SandboxError


async def attached(client: AsyncClient, attachment: Attachment) -> AsyncIterator[Event]:
    """Starts or joins a command and follows it to its end.

    An event counts as taken when the next one is asked for.
    """
    retries = StreamRetries()
    while True:
        stream = client.converse(ATTACH_COMMAND, attachment.open(), silence=COMMAND_SILENCE)
        try:
            async for frame in stream:
                event = attachment.take(frame)
                if isinstance(event, Started):
                    retries.joined()
                else:
                    retries.progress()
                if event is not None:
                    yield event
                    if isinstance(event, Ended):
                        return
                for request in attachment.outgoing():
                    stream.send(request)
            error = cut_short()
        except SandboxError as failure:
            error = failure
        finally:
            await stream.close()
        await asyncio.sleep(retries.pause(error, reached=client.reached()))


async def read(client: AsyncClient, readable: Readable[Q, R]) -> AsyncIterator[Event]:
    """Reads the output of a command, or runs one, to the end that was asked for."""
    retries = StreamRetries()
    while True:
        stream = client.read(readable.method, readable.open(), silence=readable.silence)
        retries.opened()
        try:
            async for frame in stream:
                retries.progress()
                event = readable.take(frame)
                if event is not None:
                    yield event
                if readable.is_over():
                    return
            error = cut_short()
        except SandboxError as failure:
            error = failure
        finally:
            await stream.close()
        await asyncio.sleep(retries.pause(error, reached=client.reached()))


@contextlib.asynccontextmanager
async def closing(events: Any) -> AsyncIterator[None]:
    """Ends an async generator, and so its stream, when the block is left."""
    try:
        yield
    finally:
        await events.aclose()
