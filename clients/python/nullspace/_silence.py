"""Ends streams on which the other side has fallen silent.

A read of a blocking stream cannot be given a time of its own, so one thread
looks at all of them once a second. Only the time in which somebody waits
counts: a caller may take as long as it likes between two reads.
"""

from __future__ import annotations

import os
import threading
import time
from types import TracebackType
from typing import Callable, Optional

_CHECK_SECONDS = 1.0


class Silence:
    """Watches one stream. ``with silence:`` around each wait."""

    def __init__(self, limit: float, cancel: Callable[[], object]) -> None:
        self.limit = limit
        self.cancel = cancel
        #: The limit was passed, and the stream cancelled.
        self.broken = False
        self.waiting_since: Optional[float] = None

    def __enter__(self) -> None:
        self.waiting_since = time.monotonic()

    def __exit__(
        self,
        kind: Optional[type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        self.waiting_since = None

    def is_over(self) -> bool:
        """Whether the present wait has passed the limit."""
        since = self.waiting_since
        return since is not None and time.monotonic() - since > self.limit


class _Watcher:
    def __init__(self) -> None:
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._watched: set[Silence] = set()
        self._some = threading.Event()
        threading.Thread(target=self._run, name="nullspace-silence", daemon=True).start()

    def lives(self) -> bool:
        return self._process == os.getpid()

    def add(self, silence: Silence) -> None:
        with self._lock:
            self._watched.add(silence)
            self._some.set()

    def remove(self, silence: Silence) -> None:
        with self._lock:
            self._watched.discard(silence)
            if not self._watched:
                self._some.clear()

    def _run(self) -> None:
        while True:
            self._some.wait()
            with self._lock:
                over = [silence for silence in self._watched if silence.is_over()]
            for silence in over:
                silence.broken = True
                silence.cancel()
                self.remove(silence)
            time.sleep(_CHECK_SECONDS)


_lock = threading.Lock()
_watcher: Optional[_Watcher] = None


def watch(limit: float, cancel: Callable[[], object]) -> Silence:
    """Begins to watch a stream."""
    global _watcher
    silence = Silence(limit, cancel)
    with _lock:
        if _watcher is None or not _watcher.lives():
            _watcher = _Watcher()
        _watcher.add(silence)
    return silence


def unwatch(silence: Silence) -> None:
    """The stream has ended."""
    watcher = _watcher
    if watcher is not None:
        watcher.remove(silence)
