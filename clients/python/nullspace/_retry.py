"""How long to go on when a server cannot be reached. No clock is waited on here."""

from __future__ import annotations

import time
from typing import Callable, Optional

from nullspace._limits import (
    BACKOFF_FIRST,
    BACKOFF_MAX,
    CALL_PATIENCE,
    CREATE_ATTEMPTS,
    CREATE_BACKOFF_FIRST,
    CREATE_BACKOFF_MAX,
    STREAM_CONNECTED,
    STREAM_PATIENCE,
    STREAM_SETTLED,
)
from nullspace._status import is_from_server, is_lost, timed_out
from nullspace.errors import SandboxError


class CallRetries:
    """Attempts at one call, within the time that it may take in all."""

    def __init__(
        self,
        timeout: float,
        *,
        repeatable: bool,
        creates: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self._deadline = clock() + timeout
        self._repeatable = repeatable
        self._attempts_left = CREATE_ATTEMPTS if creates else None
        self._pause = CREATE_BACKOFF_FIRST if creates else BACKOFF_FIRST
        self._longest_pause = CREATE_BACKOFF_MAX if creates else BACKOFF_MAX
        self._give_up = self._deadline if creates else min(self._deadline, clock() + CALL_PATIENCE)

    def time_left(self) -> float:
        """Seconds for the next attempt.

        Raises:
            TimeoutError: ``timeout``, there are none.
        """
        left = self._deadline - self._clock()
        if left <= 0:
            raise timed_out("the call did not end within its request_timeout")
        return left

    def limit(self, timeout: Optional[float]) -> Optional[float]:
        """As :meth:`time_left`, for a call that has no limit unless the caller gave one."""
        return None if timeout is None else self.time_left()

    def pause(self, error: SandboxError, *, reached: bool) -> float:
        """Seconds until the next attempt, or ``error`` itself where there is none.

        A server that was never ``reached`` is most likely not there at all; the
        caller learns of it at once.
        """
        if not self._repeatable or not is_lost(error) or not (reached or is_from_server(error)):
            raise error
        if self._attempts_left is not None:
            self._attempts_left -= 1
            if self._attempts_left <= 0:
                raise error
        pause = max(self._pause, float(error.details.get("retry_after", 0.0)))
        self._pause = min(self._pause * 2, self._longest_pause)
        if self._clock() + pause >= self._give_up:
            raise error
        return pause


class StreamRetries:
    """Attempts to attach again, as long as the server was not away for too long."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._away_since: Optional[float] = None
        self._settled_at: Optional[float] = None
        self._pause = BACKOFF_FIRST

    def opened(self) -> None:
        """A stream begins, of which the first sign may take long. One that lasts was connected."""
        self._settled_at = self._clock() + STREAM_CONNECTED

    def joined(self) -> None:
        """The command was reached. That alone is no progress: it may break on the next frame, always."""
        self._settled_at = self._clock() + STREAM_SETTLED
        self._pause = BACKOFF_FIRST

    def progress(self) -> None:
        """The stream lives: it brought something."""
        if self._away_since is not None:
            self._away_since = None
            self._pause = BACKOFF_FIRST

    def pause(self, error: SandboxError, *, reached: bool) -> float:
        """Seconds until the next attempt, or ``error`` itself where there is none."""
        if not is_lost(error) or not (reached or is_from_server(error)):
            raise error
        now = self._clock()
        settled_at, self._settled_at = self._settled_at, None
        if self._away_since is None or (settled_at is not None and now >= settled_at):
            self._away_since = now
        if now - self._away_since >= STREAM_PATIENCE:
            raise error
        pause = self._pause
        self._pause = min(self._pause * 2, BACKOFF_MAX)
        return pause


def whole_transfer(request_timeout: Optional[float], *, repeatable: bool = True) -> CallRetries:
    """Attempts at a transfer that begins anew each time."""
    return CallRetries(CALL_PATIENCE if request_timeout is None else request_timeout, repeatable=repeatable)
