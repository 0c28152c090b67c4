"""Keeps the status of a server that ends a call while it is still written to.

grpc.aio puts INTERNAL in its place when the write that was under way fails
(grpc/grpc#36066): why a file cannot be written would be lost every now and
then. This stands between a call and its core until grpc has mended it.
"""

from __future__ import annotations

import asyncio
from typing import Any

#: Seconds that the server's status may come after the failed write.
_LATE = 1.0


def keep_early_status(call: Any) -> Any:
    """The same call, whose status is the server's."""
    core = getattr(call, "_cython_call", None)
    if hasattr(core, "set_internal_error"):
        call._cython_call = _Core(core)
    return call


class _Core:
    def __init__(self, core: Any) -> None:
        self._core = core

    def __getattr__(self, name: str) -> Any:
        return getattr(self._core, name)

    def set_internal_error(self, message: str) -> None:
        if not self._core.done():
            # The core may also have refused the write without any status to
            # come; then this one is the call's.
            asyncio.get_running_loop().call_later(_LATE, self._set_if_none, message)

    def _set_if_none(self, message: str) -> None:
        if not self._core.done():
            self._core.set_internal_error(message)
