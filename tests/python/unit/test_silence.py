"""A stream on which somebody waits for too long is cancelled; one that nobody reads is not."""

import asyncio
import threading
import time

from nullspace import _silence
from nullspace._client_aio import Silence


def test_a_wait_that_takes_too_long():
    cancelled = threading.Event()
    silence = _silence.watch(0.1, cancelled.set)
    with silence:
        assert cancelled.wait(10)
    assert silence.broken
    _silence.unwatch(silence)


def test_short_waits_and_long_pauses_between_them():
    cancelled = threading.Event()
    silence, slow = _silence.watch(0.5, cancelled.set), _silence.watch(0.1, threading.Event().set)
    end = time.monotonic() + 2
    with slow:
        while time.monotonic() < end:
            with silence:
                pass
    assert slow.broken
    assert not silence.broken
    _silence.unwatch(silence)
    assert not cancelled.is_set()


def test_async():
    async def waits(seconds, pieces):
        cancelled = asyncio.Event()
        silence = Silence(0.1, cancelled.set)
        for _ in range(pieces):
            with silence:
                await asyncio.sleep(seconds)
        await asyncio.sleep(0.3)  # nobody waits now
        silence.stop()
        return silence.broken, cancelled.is_set()

    assert asyncio.run(waits(0.3, 1)) == (True, True)
    assert asyncio.run(waits(0.01, 20)) == (False, False)
