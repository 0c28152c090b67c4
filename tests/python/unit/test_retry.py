"""Calls that were lost are made again where that is safe, for so long and no longer."""

import pytest

from nullspace import SandboxError, TimeoutError
from nullspace._limits import CALL_PATIENCE, STREAM_PATIENCE
from nullspace._retry import CallRetries, StreamRetries
from nullspace._rpc import ATTACH_COMMAND, CREATE_SANDBOX, GET_SANDBOX, SIGNAL_COMMAND, WRITE_COMMAND_INPUT
from nullspace._status import transport_error
from nullspace.errors import error_of


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def pauses(retries, clock, error, limit=1000):
    taken = []
    for _ in range(limit):
        try:
            taken.append(retries.pause(error, reached=True))
        except SandboxError:
            return taken
        clock.now += taken[-1]
    raise AssertionError("it never gave up")


def test_a_lost_call_is_repeated_with_growing_pauses():
    clock = Clock()
    taken = pauses(CallRetries(30, repeatable=True, clock=clock), clock, transport_error("cut"))
    assert taken[:4] == [0.05, 0.1, 0.2, 0.4]
    assert max(taken) <= 2.0
    assert sum(taken) <= CALL_PATIENCE


def test_never_past_the_time_of_the_call():
    clock = Clock()
    retries = CallRetries(0.2, repeatable=True, clock=clock)
    pauses(retries, clock, transport_error("cut"))
    assert clock.now < 0.2
    clock.now = 0.2
    with pytest.raises(TimeoutError) as caught:
        retries.time_left()
    assert caught.value.code == "timeout"


def test_a_creation_is_asked_for_again_for_as_long_as_it_may_take():
    clock = Clock()
    taken = pauses(
        CallRetries(120, repeatable=True, creates=True, clock=clock), clock, error_of("call_in_progress", "")
    )
    assert taken[:6] == [0.5, 1, 2, 4, 8, 10]
    assert 100 < sum(taken) < 120


def test_a_creation_has_a_bounded_number_of_attempts():
    clock = Clock()
    taken = pauses(
        CallRetries(10**9, repeatable=True, creates=True, clock=clock), clock, transport_error("cut")
    )
    assert len(taken) == 29


def test_the_server_s_own_pause_is_kept():
    error = error_of("server_stopping", "", details={"retry_after": 1.5})
    assert CallRetries(30, repeatable=True).pause(error, reached=True) == 1.5


@pytest.mark.parametrize(
    "code", ["capacity_exceeded", "timeout", "internal", "sandbox_stopped", "invalid_request"]
)
def test_other_errors_are_the_caller_s(code):
    error = error_of(code, "")
    for retries in (CallRetries(30, repeatable=True), StreamRetries()):
        with pytest.raises(SandboxError) as caught:
            retries.pause(error, reached=True)
        assert caught.value is error


def test_what_is_not_safe_is_not_repeated():
    with pytest.raises(SandboxError):
        CallRetries(30, repeatable=False).pause(transport_error("cut"), reached=True)


def test_a_server_that_never_answered_is_not_waited_for():
    for retries in (CallRetries(30, repeatable=True), StreamRetries()):
        with pytest.raises(SandboxError):
            retries.pause(transport_error("refused"), reached=False)


def test_a_stream_is_patient_for_a_minute_and_anew_after_progress():
    clock = Clock()
    retries = StreamRetries(clock)
    taken = pauses(retries, clock, transport_error("cut"))
    assert taken[:7] == [0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 2.0]
    assert STREAM_PATIENCE <= clock.now <= STREAM_PATIENCE + 2
    retries.progress()
    assert pauses(retries, clock, transport_error("cut"))[0] == 0.05


def test_a_stream_that_always_breaks_at_once_is_given_up():
    clock = Clock()
    retries = StreamRetries(clock)

    def always():
        while clock.now < 10 * STREAM_PATIENCE:
            retries.joined()
            clock.now += retries.pause(transport_error("cut"), reached=True)

    with pytest.raises(SandboxError):
        always()
    assert STREAM_PATIENCE <= clock.now <= STREAM_PATIENCE + 1


def test_a_quiet_command_is_followed_over_any_number_of_cuts():
    clock = Clock()
    retries = StreamRetries(clock)
    for number in range(100):
        (retries.joined if number % 2 else retries.opened)()
        clock.now += 10  # nothing comes, and then it breaks
        assert retries.pause(transport_error("cut"), reached=True) <= 0.1


def test_what_may_be_repeated_is_read_from_the_schema():
    assert GET_SANDBOX.is_repeatable(GET_SANDBOX.request())
    assert not CREATE_SANDBOX.is_repeatable(CREATE_SANDBOX.request())
    assert CREATE_SANDBOX.is_repeatable(CREATE_SANDBOX.request(idempotency_key="k"))
    assert not SIGNAL_COMMAND.is_repeatable(SIGNAL_COMMAND.request())
    # Keyed by an id or an offset that the caller chose.
    assert WRITE_COMMAND_INPUT.is_repeatable(WRITE_COMMAND_INPUT.request())
    assert ATTACH_COMMAND.is_repeatable(ATTACH_COMMAND.request())
