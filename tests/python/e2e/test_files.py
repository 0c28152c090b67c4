"""Files that are read and written."""

import hashlib
import io
import os

import pytest
from support import raises, violations

from nullspace import NotFoundError, QuotaExceededError, SandboxError, TimeoutError

BIG = os.urandom(1 << 20) * 9 + b"end"


@pytest.fixture
def path(sandbox, request):
    """A path of this test's own, below a directory that is not there yet."""
    name = hashlib.sha256(request.node.nodeid.encode()).hexdigest()[:16]
    yield f"/tmp/files-{name}/file"
    sandbox.commands.run("rm", ["-rf", f"/tmp/files-{name}"])


class TestWriteAndRead:
    @pytest.mark.parametrize("text", ["", "x", "zwölf €😀\n", "a\r\nb\x00c"])
    def test_text(self, sandbox, path, text):
        info = sandbox.files.write(path, text)
        assert info.size == len(text.encode())
        assert sandbox.files.read(path) == text
        assert sandbox.files.read(path, format="text") == text
        assert sandbox.files.read(path, encoding="utf8") == text
        assert sandbox.files.read(path, "bytes") == text.encode()

    @pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
    def test_bytes(self, sandbox, path, kind):
        data = bytes(range(256)) * 3
        sandbox.files.write(path, kind(data))
        for options in ({"format": "bytes"}, {"format": "blob"}, {"encoding": "base64"}):
            assert sandbox.files.read(path, **options) == data

    def test_what_is_not_utf8_is_replaced_in_text(self, sandbox, path):
        sandbox.files.write(path, b"a\xffb")
        assert sandbox.files.read(path) == "a\ufffdb"

    @pytest.mark.parametrize(
        "content",
        [
            lambda: io.BytesIO(BIG),
            lambda: (BIG[index : index + 100_000] for index in range(0, len(BIG), 100_000)),
            lambda: [BIG[:5], BIG[5:]],
            lambda: BIG,
        ],
        ids=["file", "generator", "list", "bytes"],
    )
    def test_large_contents(self, sandbox, path, content):
        info = sandbox.files.write(path, content())
        assert info.size == len(BIG)
        digest = sandbox.commands.run("sha256sum", [path]).stdout.split()[0]
        assert digest == hashlib.sha256(BIG).hexdigest()
        assert sandbox.files.read(path, format="bytes") == BIG

    def test_texts_of_files_and_generators(self, sandbox, path):
        sandbox.files.write(path, io.StringIO("ü" * 1000))
        assert sandbox.files.read(path) == "ü" * 1000
        sandbox.files.write(path, (f"{number}\n" for number in range(3)))
        assert sandbox.files.read(path) == "0\n1\n2\n"

    def test_parts(self, sandbox, path):
        sandbox.files.write(path, "0123456789")
        assert sandbox.files.read(path, offset=3, length=4) == "3456"
        assert sandbox.files.read(path, offset=7) == "789"
        assert sandbox.files.read(path, length=0) == ""
        assert sandbox.files.read(path, offset=100) == ""

    def test_the_record(self, sandbox, path):
        info = sandbox.files.write(path, "x")
        assert (info.name, info.path, info.is_dir, info.size, info.type) == ("file", path, False, 1, "file")
        assert (info.mode, info.permissions, info.owner, info.group) == ("0644", "-rw-r--r--", "root", "root")
        assert info.modified_time.tzinfo is not None
        assert info.symlink_target is None

    def test_modes(self, sandbox, path):
        assert sandbox.files.write(path, "x", mode="0755").permissions == "-rwxr-xr-x"
        # A file that is replaced keeps its own.
        assert sandbox.files.write(path, "y").mode == "0755"
        assert sandbox.files.write(path, "z", mode=0o600).mode == "0600"
        for mode in (-1, 0o10000, "888", 2**40):
            with raises(SandboxError, "invalid_request") as caught:
                sandbox.files.write(path, "x", mode=mode)
            assert violations(caught) == {"open.mode"}

    def test_users(self, sandbox, path):
        info = sandbox.files.write(path, "x", user="user")
        assert (info.owner, info.group) == ("user", "user")
        parent = os.path.dirname(path)
        assert sandbox.commands.run("stat", ["-c", "%U %a", parent]).stdout == "user 755\n"
        # Also below directories of root.
        assert sandbox.files.write("/opt/theirs/file", "x", user="user").owner == "user"
        assert sandbox.files.read(path, user="  ") == "x"

    def test_a_user_is_whose_home_it_is(self, sandbox, path):
        sandbox.files.write("notes.txt", "mine", user="user", mode=0o600)
        assert sandbox.files.read("notes.txt", user="user") == "mine"
        # Files are read as root, whoever is named.
        sandbox.files.write(path, "secret", mode=0o600)
        assert sandbox.files.read(path, user="user") == "secret"
        with raises(NotFoundError, "user_not_found"):
            sandbox.files.read(path, user="nobody-at-all")

    def test_paths(self, sandbox, make):
        sandbox.files.write("relative/file", "x")
        assert sandbox.files.read("/workspace/relative/file") == "x"
        other = make(cwd="/srv/app")
        assert other.files.write("file", "y").path == "/srv/app/file"
        assert other.files.read("/srv/app/file") == "y"
        # Without a cwd of its own, a user's paths begin at home.
        assert sandbox.files.write("mine", "z", user="user").path == "/home/user/mine"

    def test_filesystem_is_files(self, sandbox):
        sandbox.filesystem.write("/tmp/alias", "x")
        assert sandbox.filesystem.read("/tmp/alias") == "x"


class TestStreams:
    def test_pieces(self, sandbox, path):
        sandbox.files.write(path, BIG)
        with sandbox.files.read(path, format="stream") as stream:
            assert (stream.info.size, stream.info.name) == (len(BIG), "file")
            pieces = list(stream)
        assert b"".join(pieces) == BIG
        assert all(pieces)

    def test_it_can_be_left_early(self, sandbox, path):
        sandbox.files.write(path, BIG)
        for _ in range(20):
            stream = sandbox.files.read(path, format="stream")
            for piece in stream:
                assert piece == BIG[: len(piece)]
                break
            stream.close()
            stream.close()
        assert sandbox.files.read(path, format="stream").read() == BIG

    def test_an_empty_file(self, sandbox, path):
        sandbox.files.write(path, "")
        assert list(sandbox.files.read(path, format="stream")) == []

    def test_a_missing_file_is_told_at_the_call(self, sandbox):
        with raises(NotFoundError, "file_not_found"):
            sandbox.files.read("/no/such/file", format="stream")

    def test_streams_that_stand_still_hold_up_nothing(self, sandbox, path):
        sandbox.files.write(path, BIG)
        streams = [sandbox.files.read(path, format="stream") for _ in range(40)]
        assert sandbox.commands.run("echo", ["x"]).stdout == "x\n"
        assert sandbox.is_running()
        assert streams[-1].read() == BIG
        for stream in streams:
            stream.close()


class TestAtomicity:
    def test_a_write_that_fails_leaves_the_old_file(self, sandbox, path):
        sandbox.files.write(path, "old")

        class Mine(Exception):
            pass

        def content():
            yield b"x" * 3_000_000
            raise Mine

        with pytest.raises(Mine):
            sandbox.files.write(path, content())
        assert sandbox.files.read(path) == "old"
        listing = sandbox.commands.run("ls", ["-A", os.path.dirname(path)]).stdout
        assert listing == "file\n"

    def test_whoever_reads_goes_on_reading_the_old_file(self, sandbox, path):
        sandbox.files.write(path, BIG)
        stream = sandbox.files.read(path, format="stream")
        first = next(iter(stream))
        sandbox.files.write(path, "new")
        assert first + stream.read() == BIG
        assert sandbox.files.read(path) == "new"


class TestRefusals:
    @pytest.mark.parametrize(
        ("path", "cls", "code"),
        [
            ("/no/such/file", NotFoundError, "file_not_found"),
            ("/etc", SandboxError, "path_is_directory"),
            ("/etc/hostname/x", SandboxError, "path_not_directory"),
            ("", SandboxError, "invalid_request"),
            ("/workspace/.nullspace/x", SandboxError, "invalid_request"),
            ("/tmp/a\x00b", SandboxError, "invalid_request"),
            ("/" + "x" * 5000, SandboxError, "invalid_request"),
            ("/tmp/\ud800", SandboxError, "invalid_request"),
        ],
    )
    @pytest.mark.parametrize("format", ["text", "bytes", "stream"])
    def test_reads(self, sandbox, path, cls, code, format):
        with raises(cls, code):
            sandbox.files.read(path, format=format)

    @pytest.mark.parametrize(
        ("path", "code"),
        [
            ("/etc", "path_is_directory"),
            ("/etc/hostname/x", "path_not_directory"),
            ("", "invalid_request"),
            ("/workspace/.nullspace/x", "invalid_request"),
            ("/tmp/" + "n" * 300, "invalid_request"),
        ],
    )
    def test_writes(self, sandbox, path, code):
        # Refused while the file is still on its way; the reason comes all the same.
        for _ in range(5):
            with pytest.raises(SandboxError) as caught:
                sandbox.files.write(path, BIG)
            assert caught.value.code in (code, "file_operation_failed")

    @pytest.mark.parametrize(
        "options", [{"offset": -1}, {"length": -1}, {"offset": 2**63}, {"format": "nope"}]
    )
    def test_bad_options(self, sandbox, options):
        with raises(SandboxError, "invalid_request"):
            sandbox.files.read("/etc/hostname", **options)

    def test_format_and_encoding_exclude_each_other(self, sandbox):
        with raises(SandboxError, "invalid_request"):
            sandbox.files.read("/etc/hostname", format="text", encoding="utf8")

    @pytest.mark.parametrize("content", [None, 7, [1, 2]])
    def test_contents_that_are_none(self, sandbox, path, content):
        with pytest.raises(TypeError):
            sandbox.files.write(path, content)

    def test_a_full_disk(self, make):
        sandbox = make(disk_mb=512)
        with raises(QuotaExceededError, "disk_full"):
            sandbox.files.write("/tmp/big", (bytes(1 << 20) for _ in range(700)))
        assert "big" not in sandbox.commands.run("ls", ["-A", "/tmp"]).stdout
        sandbox.files.write("/tmp/small", "x")

    def test_the_time_of_a_transfer(self, sandbox, path):
        with raises(TimeoutError, "timeout"):
            sandbox.files.write(path, BIG, request_timeout=0.001)
        with raises(TimeoutError, "timeout"):
            sandbox.files.read("/etc/hostname", request_timeout=1e-6)
