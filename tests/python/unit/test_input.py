"""A writer knows where its input goes on, also after a call of unknown outcome."""

from nullspace._command_requests import InputCursor
from nullspace._gen.v1 import command_pb2
from nullspace._limits import INPUT_CHUNK_BYTES


class Process:
    """Takes input as the agent does: by offset, ignoring what it has."""

    def __init__(self, at_most=1 << 20):
        self.data = b""
        self.closed = False
        self.at_most = at_most

    def write(self, request):
        assert request.offset <= len(self.data), "a gap"
        fresh = request.data[len(self.data) - request.offset :][: self.at_most]
        self.data += fresh
        self.closed |= request.close
        return command_pb2.WriteCommandInputResponse(accepted_offset=len(self.data))


def send(cursor, process, data, close=False):
    count = 0
    for request in cursor.requests(data, close=close):
        cursor.accept(process.write(request))
        count += 1
    return count


def test_pieces_follow_each_other():
    cursor, process = InputCursor("sb_1", "cmd_1"), Process()
    assert send(cursor, process, b"one ") == 1
    assert send(cursor, process, b"two", close=True) == 1
    assert (process.data, process.closed) == (b"one two", True)


def test_nothing_is_one_call_too():
    cursor, process = InputCursor("sb_1", "cmd_1"), Process()
    assert send(cursor, process, b"", close=True) == 1
    assert process.closed


def test_much_goes_in_pieces_and_is_closed_with_the_last():
    cursor, process = InputCursor("sb_1", "cmd_1"), Process()
    data = bytes(range(256)) * 4096
    requests = []
    for request in cursor.requests(data, close=True):
        requests.append(request)
        cursor.accept(process.write(request))
    assert process.data == data
    assert max(len(request.data) for request in requests) == INPUT_CHUNK_BYTES
    assert [request.close for request in requests] == [False] * (len(requests) - 1) + [True]


def test_what_was_taken_in_part_is_sent_on():
    cursor, process = InputCursor("sb_1", "cmd_1"), Process(at_most=3)
    send(cursor, process, b"0123456789")
    assert process.data == b"0123456789"


def test_after_a_lost_answer_it_asks_first():
    cursor, process = InputCursor("sb_1", "cmd_1"), Process()
    send(cursor, process, b"one ")
    for request in cursor.requests(b"lost ", close=False):
        process.write(request)  # and the answer never comes
        break
    send(cursor, process, b"two")
    assert process.data == b"one lost two"


def test_writers_have_names_of_their_own():
    names = set()
    for _ in range(3):
        names |= {request.client_id for request in InputCursor("sb_1", "cmd_1").requests(b"", close=False)}
    assert len(names) == 3
