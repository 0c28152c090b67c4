"""Ids that the client chooses: a prefix and a ULID in lower case."""

from __future__ import annotations

import os
import threading
import time

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_RANDOM_BITS = 80

_lock = threading.Lock()
_last = (0, 0)


def ulid() -> str:
    """26 characters of Crockford's base32: 48 bits of milliseconds, 80 of chance.

    Ids of one process ascend, also within a millisecond.
    """
    global _last
    with _lock:
        millis, chance = time.time_ns() // 1_000_000, int.from_bytes(os.urandom(10), "big")
        if millis <= _last[0]:
            millis, chance = _last[0], _last[1] + 1
            if chance >> _RANDOM_BITS:
                millis, chance = millis + 1, 0
        _last = (millis, chance)
    number = millis << _RANDOM_BITS | chance
    return "".join(_ALPHABET[number >> shift & 31] for shift in range(125, -1, -5))


def command_id() -> str:
    """A new command's id."""
    return f"cmd_{ulid()}"


def client_id() -> str:
    """The id under which one reader or writer of a command is known."""
    return f"py_{ulid()}"


def _forget() -> None:
    # A child that went on counting from its parent's state would make the same
    # ids as the parent.
    global _last, _lock
    _lock = threading.Lock()
    _last = (0, 0)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
