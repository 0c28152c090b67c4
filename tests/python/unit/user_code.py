"""Code as users write it. It is type-checked and never run."""

from collections.abc import AsyncIterator, Iterator
from typing import Any, Optional

from typing_extensions import assert_type

from nullspace import (
    AsyncCommandHandle,
    AsyncFileStream,
    AsyncSandbox,
    CommandHandle,
    CommandResult,
    FileStream,
    Sandbox,
    SandboxError,
    SandboxInfo,
    SandboxPaginator,
    SandboxQuery,
    System,
    TimeoutError,
)


def blocking(lines: Iterator[str]) -> None:
    with Sandbox.create(template="base", timeout=300, metadata={"a": [1, None]}) as sandbox:
        assert_type(sandbox, Sandbox)
        assert_type(sandbox.commands.run("ls", ["-l"], cwd="/"), CommandResult)
        assert_type(sandbox.commands.run("ls", on_stdout=print, on_stderr=lines_of), CommandResult)
        handle = sandbox.commands.run("ls", background=True)
        assert_type(handle, CommandHandle)
        for out, err, _ in handle:
            assert_type(out, Optional[str])
            assert_type(err, Optional[str])
        assert_type(sandbox.files.read("f"), str)
        assert_type(sandbox.files.read("f", format="bytes"), bytes)
        assert_type(sandbox.files.read("f", encoding="base64"), bytes)
        assert_type(sandbox.files.read("f", format="stream"), FileStream)
        sandbox.files.write("f", lines)
        assert_type(sandbox.get_info(), SandboxInfo)
        assert_type(sandbox.get_info(["id"]), dict[str, Any])
        sandbox.set_timeout(60)
    assert_type(Sandbox.list(query=SandboxQuery(template="base")), SandboxPaginator)
    assert_type(Sandbox.list(fields=["id"]), list[dict[str, Any]])
    for info in Sandbox.list("running"):
        assert_type(info, SandboxInfo)
    with System() as system:
        assert_type(system.create_api_key("ci", ["sandbox.read"]).key, str)
        assert_type(system.rotate_api_key(grace=3600).rotated_from, Optional[str])


def lines_of(text: str) -> list[str]:
    return text.splitlines()


async def awaiting(chunks: AsyncIterator[bytes]) -> None:
    async with await AsyncSandbox.create() as sandbox:
        assert_type(sandbox, AsyncSandbox)
        assert_type(await sandbox.commands.run("ls"), CommandResult)
        handle = await sandbox.commands.run("ls", background=True, on_stdout=awaited)
        assert_type(handle, AsyncCommandHandle)
        async for out, _, _ in handle:
            assert_type(out, Optional[str])
        assert_type(await sandbox.files.read("f", format="stream"), AsyncFileStream)
        await sandbox.files.write("f", chunks)
    async for info in await AsyncSandbox.list():
        assert_type(info, SandboxInfo)


async def awaited(text: str) -> None:
    print(text)


def failing(sandbox: Sandbox) -> None:
    try:
        sandbox.commands.run("ls")
    except TimeoutError as error:
        assert_type(error.result, Optional[CommandResult])
    except SandboxError as error:
        assert_type(error.code, str)
        assert_type(error.retryable, Optional[bool])
