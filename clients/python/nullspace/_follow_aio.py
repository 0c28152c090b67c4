"""Follows a command to its end, over as many streams as that takes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

from nullspace._client_aio import AsyncClient
from nullspace._limits import COMMAND_SILENCE, RUN_ONCE_SILENCE
from nullspace._retry import StreamRetries
from nullspace._rpc import ATTACH_COMMAND, READ_COMMAND_OUTPUT, RUN_ONCE
from nullspace._stream import Attachment, Ended, Event, Reading, Running, cut_short
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
                if frame.WhichOneof("frame") == "started":
                    retries.joined()
                else:
                    retries.progress()
                event = attachment.take(frame)
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


async def read(client: AsyncClient, reading: Reading) -> AsyncIterator[Event]:
    """Follows the output of a command to its end, or reads what is there now."""
    retries = StreamRetries()
    while True:
        stream = client.read(READ_COMMAND_OUTPUT, reading.open(), silence=COMMAND_SILENCE)
        retries.opened()
        try:
            async for frame in stream:
                retries.progress()
                event = reading.log.take(frame)
                if event is not None:
                    yield event
                if reading.is_over():
                    return
            error = cut_short()
        except SandboxError as failure:
            error = failure
        finally:
            await stream.close()
        await asyncio.sleep(retries.pause(error, reached=client.reached()))


async def run(client: AsyncClient, running: Running) -> AsyncIterator[Event]:
    """As the blocking :func:`nullspace._follow.run`."""
    retries = StreamRetries()
    while True:
        stream = client.read(RUN_ONCE, running.open(), silence=RUN_ONCE_SILENCE)
        retries.opened()
        try:
            async for frame in stream:
                retries.progress()
                event = running.take(frame)
                if event is not None:
                    yield event
                if running.log.ended:
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
