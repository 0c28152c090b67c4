"""Connections are shared by server and key, and end with the last who uses them.

grpc connects with the first call, so nothing here needs a server.
"""

import asyncio
import gc
import multiprocessing
import threading

import pytest

from nullspace import _channel, _channel_aio
from nullspace._channel import Channels, Lease
from nullspace._channel_aio import AsyncChannels, AsyncLease
from nullspace._client import Outbox
from nullspace._config import Config
from nullspace._limits import STREAMS_PER_CHANNEL


def config(key="k"):
    return Config("http://localhost:1", "localhost:1", False, key)


def test_shares():
    first, second, other = Lease(config()), Lease(config()), Lease(config("other"))
    assert first.channels() is second.channels()
    assert first.channels() is not other.channels()
    channels = first.channels()
    first.close()
    first.close()
    assert second.channels() is channels
    second.close()
    other.close()
    assert not _channel._shared
    assert not _channel._shares
    again = Lease(config())
    assert again.channels() is not channels
    again.close()


def test_a_share_that_is_dropped_is_given_back():
    lease = Lease(config())
    lease.channels()
    del lease
    gc.collect()
    assert not _channel._shared


def test_a_closed_lease_opens_again():
    lease = Lease(config())
    lease.channels()
    lease.close()
    lease.channels()
    lease.close()
    assert not _channel._shared


def test_streams_take_further_connections_when_one_is_full():
    channels = Channels(config())
    lines = [channels.take_stream() for _ in range(2 * STREAMS_PER_CHANNEL + 1)]
    assert len(set(lines)) == 3
    assert channels.unary() not in lines
    for line in lines:
        channels.give_back(line)
    assert len(channels._streams) == 1
    channels.close()


def test_threads_share_one():
    lease, seen = Lease(config()), []

    def use():
        for _ in range(200):
            channels = lease.channels()
            channels.give_back(channels.take_stream())
            seen.append(channels)

    threads = [threading.Thread(target=use) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(seen)) == 1
    lease.close()
    assert not _channel._shared


def test_loops_do_not_share():
    async def use():
        first, second = AsyncLease(config()), AsyncLease(config())
        channels = first.channels()
        assert second.channels() is channels
        await first.close()
        await first.close()
        assert second.channels() is channels
        await second.close()
        assert not _channel_aio._loops[asyncio.get_running_loop()]
        return channels

    assert asyncio.run(use()) is not asyncio.run(use())


def test_a_lease_moves_to_the_loop_that_uses_it():
    lease = None

    async def use():
        nonlocal lease
        lease = lease or AsyncLease(config())
        channels = lease.channels()
        channels.unary()
        return channels

    assert asyncio.run(use()) is not asyncio.run(use())


def test_async_streams_take_further_connections():
    async def use():
        channels = AsyncChannels(config())
        lines = [channels.take_stream() for _ in range(STREAMS_PER_CHANNEL + 1)]
        assert len(set(lines)) == 2
        for line in lines:
            await channels.give_back(line)
        assert len(channels._streams) == 1
        await channels.close()

    asyncio.run(use())


def forked(lease, parents, queue):
    channels = lease.channels()
    queue.put((id(channels) != parents, len(_channel._shares)))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_child_makes_its_own():
    lease = Lease(config())
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=forked, args=(lease, id(lease.channels()), queue))
    child.start()
    assert queue.get(timeout=30) == (True, 1)
    child.join(30)
    lease.close()


class TestOutbox:
    def test_order_and_end(self):
        outbox = Outbox()
        for number in range(3):
            assert outbox.put(number)
        outbox.close()
        assert not outbox.put(3)
        assert list(outbox) == [0, 1, 2]

    def test_a_full_one_waits(self):
        outbox, taken = Outbox(limit=1), []
        reader = threading.Thread(target=lambda: taken.extend(outbox))
        outbox.put(0)
        reader.start()
        for number in range(1, 100):
            outbox.put(number)
        outbox.close()
        reader.join()
        assert taken == list(range(100))

    def test_closing_wakes_who_waits(self):
        outbox = Outbox(limit=1)
        outbox.put(0)
        results = []
        writer = threading.Thread(target=lambda: results.append(outbox.put(1)))
        writer.start()
        outbox.close()
        writer.join()
        assert results == [False]
