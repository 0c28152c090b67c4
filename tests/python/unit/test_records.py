"""A result whose output is joined late cannot be told from one that has it."""

import copy
import dataclasses
import pickle
import threading

import pytest

from nullspace import CommandResult

OUT, ERR = ["é€".encode()[:4], "é€".encode()[4:], b"\xff"], [b"err"]
VALUES = {"exit_code": 3, "pid": 7, "wall_time": 1.5}


def late():
    return CommandResult._of_pieces(OUT, ERR, **VALUES)


def at_once():
    return CommandResult(
        stdout="é€\ufffd", stderr="err", stdout_bytes=b"".join(OUT), stderr_bytes=b"err", **VALUES
    )


FIELDS = [field.name for field in dataclasses.fields(CommandResult)]


@pytest.mark.parametrize("name", FIELDS)
def test_each_field_may_be_asked_for_first(name):
    result = late()
    first = getattr(result, name)
    assert first == getattr(at_once(), name)
    assert getattr(result, name) is first
    assert all(getattr(result, other) == getattr(at_once(), other) for other in FIELDS)


def test_equality():
    assert late() == at_once()
    assert at_once() == late()
    assert late() == late()
    assert hash(late()) == hash(at_once())
    assert late() != CommandResult._of_pieces([b"else"], ERR, **VALUES)


@pytest.mark.parametrize("asked", [False, True])
def test_copies(asked):
    result = late()
    if asked:
        assert result.stdout
    copies = [pickle.loads(pickle.dumps(result)), copy.copy(result), copy.deepcopy(result)]
    assert [vars(one) for one in copies] == [vars(at_once())] * 3
    assert dataclasses.asdict(late()) == dataclasses.asdict(at_once())
    assert dataclasses.replace(late(), pid=8) == dataclasses.replace(at_once(), pid=8)


def test_what_is_shown_needs_no_output():
    result = late()
    assert repr(result) == repr(at_once())
    assert not {"stdout", "stdout_bytes"} & vars(result).keys()


def test_asking_for_text_lets_go_of_the_pieces():
    result = late()
    assert result.stdout == "é€\ufffd"
    assert result.stdout_bytes is vars(result)["stdout_bytes"]
    assert list(vars(result)["_pieces"]) == ["stderr_bytes"]


def test_it_is_frozen():
    for result in (late(), at_once()):
        with pytest.raises(dataclasses.FrozenInstanceError):
            result.stdout = ""
        with pytest.raises(AttributeError, match="'CommandResult' object has no attribute 'stdin'"):
            result.stdin


def test_what_is_not_given_is_empty():
    result = CommandResult(0, "out", "err")
    assert (result.stdout, result.stdout_bytes, result.stderr_bytes) == ("out", b"", b"")


def test_many_threads_ask_at_once():
    for _ in range(50):
        result, begin, seen = late(), threading.Barrier(8), []

        def ask(result=result, begin=begin, seen=seen):
            begin.wait()
            seen.append((result.stdout, result.stdout_bytes, result.stderr))

        threads = [threading.Thread(target=ask) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert seen == [("é€\ufffd", b"".join(OUT), "err")] * 8
