"""What the end-to-end tests share."""

import contextlib
import time

import pytest


def eventually(condition, seconds=30.0):
    """Waits until a condition holds, and gives its value."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "it did not come to hold"
        time.sleep(0.02)
    return value


@contextlib.contextmanager
def raises(cls, code):
    """As pytest.raises, with the code."""
    with pytest.raises(cls) as caught:
        yield caught
    assert caught.value.code == code
    assert type(caught.value) is cls


def violations(caught):
    """The bad fields that an error names."""
    return {violation["field"] for violation in caught.value.details["violations"]}
