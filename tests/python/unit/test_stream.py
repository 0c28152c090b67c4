"""A command's log is read without a byte lost or repeated, whatever the stream does."""

import pytest

from nullspace import SandboxError
from nullspace._gen.v1 import command_pb2, stream_pb2
from nullspace._limits import INPUT_CHUNK_BYTES
from nullspace._output import Collector, TextDecoder
from nullspace._stream import Attachment, Ended, LogReader, Output, Reading, Started

STDOUT, STDERR = stream_pb2.OUTPUT_STREAM_STDOUT, stream_pb2.OUTPUT_STREAM_STDERR


def frame(**fields):
    return command_pb2.AttachCommandResponse(**fields)


def output(offset, data, stream=STDOUT):
    return frame(output=stream_pb2.OutputChunk(offset=offset, stream=stream, data=data))


def exit(output_bytes=0, **fields):
    fields.setdefault("reason", command_pb2.TERMINATION_REASON_EXITED)
    fields = fields if "signal" in fields else {"code": 0, **fields}
    return frame(exit=command_pb2.Exit(output_bytes=output_bytes, **fields))


def started(execution_id="ex_1"):
    return frame(started=command_pb2.CommandInfo(command_id="cmd_1", execution_id=execution_id, pid=7))


def accepted(offset, window=1 << 20):
    return frame(input_accepted=stream_pb2.InputAccepted(offset=offset, window_bytes=window))


def attachment(**options):
    return Attachment("sb_1", "cmd_1", "client", log=LogReader(), **options)


class TestLogReader:
    def test_output_in_order(self):
        log = LogReader()
        assert log.take(output(0, b"ab")) == Output(False, b"ab")
        assert log.take(output(2, b"cd", STDERR)) == Output(True, b"cd")
        assert log.offset == 4

    def test_a_repeated_range_is_dropped(self):
        log = LogReader()
        log.take(output(0, b"abcd"))
        assert log.take(output(0, b"abcd")) is None
        assert log.take(output(2, b"cdef")) == Output(False, b"ef")
        assert log.offset == 6

    def test_a_gap_is_an_error(self):
        log = LogReader()
        log.take(output(0, b"ab"))
        with pytest.raises(SandboxError) as caught:
            log.take(output(3, b"d"))
        assert caught.value.code == "invalid_response"

    def test_a_gap_that_was_announced_is_counted(self):
        log = LogReader()
        log.take(output(0, b"ab"))
        log.take(frame(truncated=stream_pb2.OutputTruncated(offset=10)))
        assert log.take(output(10, b"k")) == Output(False, b"k")
        assert log.lost_bytes == 8

    def test_an_announcement_of_what_was_read_is_none(self):
        log = LogReader()
        log.take(output(0, b"ab"))
        log.take(frame(truncated=stream_pb2.OutputTruncated(offset=1)))
        assert (log.offset, log.lost_bytes) == (2, 0)

    def test_an_exit_before_all_output_is_an_error(self):
        log = LogReader()
        log.take(output(0, b"ab"))
        with pytest.raises(SandboxError):
            log.take(exit(output_bytes=3))
        assert not log.ended

    def test_the_exit(self):
        log = LogReader()
        assert isinstance(log.take(exit(code=3)), Ended)
        assert log.ended

    def test_positions_are_of_the_execution_that_was_joined_first(self):
        log = LogReader()
        assert isinstance(log.take(started("ex_1")), Started)
        log.take(output(0, b"ab"))
        log.take(started("ex_2"))
        assert (log.position.execution_id, log.position.offset) == ("ex_1", 2)

    def test_keepalives_mean_nothing(self):
        assert LogReader().take(frame(keepalive=stream_pb2.Keepalive())) is None


class TestAttachment:
    def test_the_first_frame(self):
        spec = command_pb2.CommandSpec(shell="true")
        open = attachment(spec=spec, hold=True).open().open
        assert (open.sandbox_id, open.command_id, open.client_id, open.hold) == (
            "sb_1",
            "cmd_1",
            "client",
            True,
        )
        assert open.start == spec
        assert not open.HasField("position")

    def test_until_it_is_known_to_run_it_is_started_again(self):
        attach = attachment(spec=command_pb2.CommandSpec(shell="true"))
        attach.open()
        assert attach.open().open.HasField("start")

    def test_once_it_runs_it_is_never_started_again(self):
        attach = attachment(spec=command_pb2.CommandSpec(shell="true"))
        attach.open()
        attach.take(started())
        attach.take(output(0, b"abc"))
        again = attach.open().open
        assert not again.HasField("start")
        assert again.client_id == "client"
        assert (again.position.execution_id, again.position.offset) == ("ex_1", 3)

    def test_a_holder_acknowledges_what_it_took(self):
        attach = attachment(hold=True)
        attach.open()
        acknowledged = []
        for index in range(16):
            attach.take(output(index * 65_536, b"x" * 65_536))
            acknowledged += [request.ack.offset for request in attach.outgoing()]
        assert acknowledged == [262_144, 524_288, 786_432, 1_048_576]

    def test_one_who_does_not_hold_acknowledges_nothing(self):
        attach = attachment()
        attach.open()
        attach.take(output(0, b"x" * (1 << 20)))
        assert not list(attach.outgoing())

    def test_after_a_cut_it_acknowledges_at_once(self):
        attach = attachment(hold=True)
        attach.open()
        attach.take(output(0, b"abc"))
        assert not list(attach.outgoing())
        attach.open()
        attach.take(started())
        assert [request.ack.offset for request in attach.outgoing()] == [3]
        assert not list(attach.outgoing())

    def test_input_waits_for_the_window(self):
        attach = attachment(stdin=b"x" * 1000)
        attach.open()
        attach.take(started())
        assert not list(attach.outgoing())
        attach.take(accepted(0, window=600))
        (chunk,) = attach.outgoing()
        assert (chunk.input.offset, len(chunk.input.data)) == (0, 600)
        assert not list(attach.outgoing())
        attach.take(accepted(600, window=600))
        rest, close = attach.outgoing()
        assert (rest.input.offset, len(rest.input.data)) == (600, 400)
        assert close.close_input.offset == 1000
        attach.take(accepted(1000))
        assert not list(attach.outgoing())

    def test_no_input_is_closed_at_once(self):
        attach = attachment(stdin=b"")
        attach.open()
        attach.take(accepted(0))
        (close,) = attach.outgoing()
        assert close.close_input.offset == 0

    def test_input_goes_on_where_the_agent_has_it(self):
        attach = attachment(stdin=b"0123456789")
        attach.open()
        attach.take(accepted(0))
        assert len(list(attach.outgoing())) == 2
        attach.open()
        attach.take(started())
        assert not list(attach.outgoing())
        attach.take(accepted(4))
        chunk, close = attach.outgoing()
        assert (chunk.input.offset, chunk.input.data) == (4, b"456789")
        assert close.close_input.offset == 10

    def test_a_process_that_takes_no_more_input_gets_none(self):
        attach = attachment(stdin=b"x" * 100)
        attach.open()
        attach.take(accepted(0, window=10))
        assert len(list(attach.outgoing())) == 1
        closed = stream_pb2.InputClosed(reason=stream_pb2.INPUT_CLOSED_REASON_PROCESS)
        attach.take(frame(input_closed=closed))
        attach.take(accepted(10, window=100))
        assert not list(attach.outgoing())

    def test_large_input_goes_in_pieces(self):
        attach = attachment(stdin=b"x" * 1_000_000)
        attach.open()
        attach.take(accepted(0, window=1 << 20))
        sizes = [len(request.input.data) for request in attach.outgoing() if request.HasField("input")]
        assert sum(sizes) == 1_000_000
        assert max(sizes) == INPUT_CHUNK_BYTES


class TestReading:
    def read(self, follow):
        return Reading("sb_1", "cmd_1", LogReader("ex_1", 5), follow=follow)

    def test_the_request(self):
        request = self.read(True).open()
        assert (request.sandbox_id, request.command_id, request.follow) == ("sb_1", "cmd_1", True)
        assert (request.position.execution_id, request.position.offset) == ("ex_1", 5)

    @pytest.mark.parametrize("follow", [True, False])
    def test_the_end(self, follow):
        reading = self.read(follow)
        reading.log.take(command_pb2.ReadCommandOutputResponse(exit=command_pb2.Exit(code=0)))
        assert reading.is_over() is follow
        reading.log.take(command_pb2.ReadCommandOutputResponse(end=command_pb2.OutputEnd(offset=5)))
        assert reading.is_over()


TEXT = "aß€😀é\n" * 3


class TestText:
    @pytest.mark.parametrize("size", range(1, 9))
    def test_no_character_is_split(self, size):
        data, decoder, pieces = TEXT.encode(), TextDecoder(), []
        for index in range(0, len(data), size):
            pieces.append(decoder.decode(False, data[index : index + size]))
        assert "".join(pieces) == TEXT
        assert not any("\ufffd" in piece for piece in pieces)
        assert not list(decoder.flush())

    def test_streams_do_not_mix(self):
        decoder = TextDecoder()
        euro = "€".encode()
        assert decoder.decode(False, euro[:1]) == ""
        assert decoder.decode(True, b"x") == "x"
        assert decoder.decode(False, euro[1:]) == "€"

    def test_what_is_not_utf8_is_replaced(self):
        decoder = TextDecoder()
        assert decoder.decode(False, b"a\xffb") == "a\ufffdb"
        assert decoder.decode(True, b"\xe2\x82") == ""
        assert list(decoder.flush()) == [(True, "\ufffd")]


class TestCollector:
    def feed(self, collector, *events):
        for event in events:
            for callback, piece in collector.add(event):
                callback(piece)

    def test_callbacks_get_whole_characters_and_results_all_bytes(self):
        out, err = [], []
        collector = Collector(out.append, err.append)
        data = "€😀".encode() + b"\xff"
        self.feed(collector, *(Output(False, data[i : i + 1]) for i in range(len(data))))
        self.feed(collector, Output(True, b"\xe2"), Ended(command_pb2.Exit(code=3)))
        assert out == ["€", "😀", "\ufffd"]
        assert err == ["\ufffd"]
        result = collector.result(lost_bytes=0, pid=7)
        assert (result.exit_code, result.stdout, result.stderr, result.pid) == (3, "€😀\ufffd", "\ufffd", 7)
        assert (result.stdout_bytes, result.stderr_bytes) == (data, b"\xe2")

    def test_bytes_for_those_who_ask(self):
        out = []
        self.feed(Collector(out.append, binary=True), Output(False, b"\xff"), Output(True, b"x"))
        assert out == [b"\xff"]

    def test_a_signal(self):
        collector = Collector()
        exit = command_pb2.Exit(signal=9, reason=command_pb2.TERMINATION_REASON_KILLED_BY_USER)
        self.feed(collector, Ended(exit))
        result = collector.result(0)
        assert (result.exit_code, result.signal, result.reason) == (137, 9, "killed_by_user")

    def test_a_timeout_carries_the_result(self):
        import builtins

        collector = Collector()
        exit = command_pb2.Exit(signal=15, reason=command_pb2.TERMINATION_REASON_TIMED_OUT)
        self.feed(collector, Output(False, b"so far"), Ended(exit))
        with pytest.raises(builtins.TimeoutError) as caught:
            collector.result(0)
        assert caught.value.code == "exec_timeout"
        assert caught.value.result.stdout == "so far"
        assert (caught.value.result.exit_code, caught.value.result.reason) == (143, "timed_out")

    def test_an_exit_that_says_nothing_is_an_error(self):
        collector = Collector()
        self.feed(collector, Ended(command_pb2.Exit()))
        with pytest.raises(SandboxError) as caught:
            collector.result(0)
        assert caught.value.code == "invalid_response"
