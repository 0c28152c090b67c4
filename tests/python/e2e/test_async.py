"""What only the async client promises."""

import asyncio

import pytest

from nullspace import AsyncSandbox, ConflictError


def in_sandbox(test):
    async def main():
        async with await AsyncSandbox.create(memory_mb=256) as sandbox:
            await asyncio.wait_for(test(sandbox), 60)

    asyncio.run(main())


def test_callbacks_may_be_coroutines():
    async def test(sandbox):
        pieces = []

        async def take(text):
            await asyncio.sleep(0)
            pieces.append(text)

        result = await sandbox.commands.run("seq", ["1", "1000"], on_stdout=take)
        assert "".join(pieces) == result.stdout
        pieces.clear()
        handle = await sandbox.commands.run("seq", ["1", "1000"], background=True, on_stdout=take)
        assert (await handle.wait()).stdout == "".join(pieces)

    in_sandbox(test)


def test_a_cancelled_run_kills_its_command():
    async def test(sandbox):
        begun = asyncio.Event()
        running = asyncio.create_task(
            sandbox.commands.run(
                "echo begun; sleep 300", shell=True, tag="cancel", on_stdout=lambda text: begun.set()
            )
        )
        await begun.wait()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        while await sandbox.commands.list(tag="cancel"):  # noqa: ASYNC110 - there is no event to wait for
            await asyncio.sleep(0.02)

    in_sandbox(test)


def test_a_cancelled_wait_leaves_the_command_alone():
    async def test(sandbox):
        handle = await sandbox.commands.run("read x; echo $x", shell=True, background=True)
        waiting = asyncio.create_task(handle.wait())
        await asyncio.sleep(0.1)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await handle.send_stdin("go\n")
        assert (await handle.wait()).stdout == "go\n"

    in_sandbox(test)


def test_many_at_once():
    async def test(sandbox):
        results = await asyncio.gather(*(sandbox.commands.run("echo", [str(n)]) for n in range(150)))
        assert [result.stdout for result in results] == [f"{n}\n" for n in range(150)]

    in_sandbox(test)


def test_async_contents():
    async def test(sandbox):
        async def content():
            for number in range(3):
                await asyncio.sleep(0)
                yield f"{number}\n"

        assert (await sandbox.files.write("/tmp/file", content())).size == 6
        assert await sandbox.files.read("/tmp/file") == "0\n1\n2\n"

    in_sandbox(test)


def test_wait_ends_with_the_sandbox():
    async def test(sandbox):
        handle = await sandbox.commands.run("sleep", ["300"], background=True)
        waiting = asyncio.create_task(handle.wait())
        await asyncio.sleep(0.1)
        await sandbox.kill()
        with pytest.raises(ConflictError):
            await waiting

    in_sandbox(test)


def test_one_client_in_one_loop_after_another():
    async def create():
        return await AsyncSandbox.create(memory_mb=256)

    async def use(sandbox):
        await sandbox.commands.run("true")
        await sandbox.close()

    sandbox = asyncio.run(create())
    asyncio.run(use(sandbox))
    asyncio.run(sandbox.kill())
