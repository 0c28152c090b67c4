"""Nullspace: sandboxes for code and AI agents.

>>> from nullspace import Sandbox
>>> with Sandbox.create(template="base", timeout=300) as sandbox:
...     print(sandbox.commands.run("echo ready", shell=True).stdout)
"""

from nullspace._output import OutputCallback
from nullspace._requests import SandboxQuery
from nullspace._version import __version__
from nullspace.async_command_handle import AsyncCommandHandle
from nullspace.async_commands import AsyncCommands, AsyncProcess
from nullspace.async_files import AsyncFiles, AsyncFileStream
from nullspace.async_paginator import AsyncSandboxPaginator
from nullspace.async_sandbox import AsyncSandbox
from nullspace.async_system import AsyncSystem
from nullspace.command_handle import CommandHandle
from nullspace.commands import Commands, Process
from nullspace.errors import (
    AuthError,
    BatchWriteError,
    BuildError,
    ConflictError,
    FileUploadError,
    GitError,
    NotFoundError,
    NotImplementedError,
    PermissionError,
    QuotaExceededError,
    RateLimitError,
    SandboxError,
    TimeoutError,
    UploadChecksumError,
    UploadConflictError,
    UploadExpiredError,
    UploadLimitError,
    UploadPathError,
    UploadStateError,
)
from nullspace.files import Files, FileStream
from nullspace.paginator import SandboxPaginator
from nullspace.records import (
    ApiKey,
    Capabilities,
    CommandLogs,
    CommandResult,
    CreatedApiKey,
    Engine,
    FileInfo,
    ProcessInfo,
    SandboxConfig,
    SandboxInfo,
    SandboxMetrics,
    Template,
    Version,
)
from nullspace.sandbox import Sandbox
from nullspace.system import System

__all__ = [
    "ApiKey",
    "AsyncCommandHandle",
    "AsyncCommands",
    "AsyncFileStream",
    "AsyncFiles",
    "AsyncProcess",
    "AsyncSandbox",
    "AsyncSandboxPaginator",
    "AsyncSystem",
    "AuthError",
    "BatchWriteError",
    "BuildError",
    "Capabilities",
    "CommandHandle",
    "CommandLogs",
    "CommandResult",
    "Commands",
    "ConflictError",
    "CreatedApiKey",
    "Engine",
    "FileInfo",
    "FileStream",
    "FileUploadError",
    "Files",
    "GitError",
    "NotFoundError",
    "NotImplementedError",
    "OutputCallback",
    "PermissionError",
    "Process",
    "ProcessInfo",
    "QuotaExceededError",
    "RateLimitError",
    "Sandbox",
    "SandboxConfig",
    "SandboxError",
    "SandboxInfo",
    "SandboxMetrics",
    "SandboxPaginator",
    "SandboxQuery",
    "System",
    "Template",
    "TimeoutError",
    "UploadChecksumError",
    "UploadConflictError",
    "UploadExpiredError",
    "UploadLimitError",
    "UploadPathError",
    "UploadStateError",
    "Version",
    "__version__",
]
