"""TLS, by the server itself and by a relay that speaks it before the server."""

import json
import os
import ssl
import subprocess
import time

import pytest
from cutter import Cutter
from support import raises

from nullspace import SandboxError


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A certificate for this machine that nobody trusts by itself, and its key."""
    directory = tmp_path_factory.mktemp("tls")
    certificate, key = directory / "cert.pem", directory / "key.pem"
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "1",
        "-subj",
        "/CN=localhost",
    ]
    files = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run([*command, *files], check=True, capture_output=True)
    return certificate, key


@pytest.fixture(scope="module")
def relay(certificate):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    context.set_alpn_protocols(["h2"])
    relay = Cutter(tls=context)
    yield relay
    relay.close()


def test_a_certificate_that_is_named_is_trusted(api, relay, certificate, monkeypatch):
    options = {"base_url": relay.url, "ca_cert": str(certificate[0])}
    with api.Sandbox.create(memory_mb=256, **options) as sandbox:
        assert sandbox.commands.run("cat", input=b"x" * 3_000_000).stdout == "x" * 3_000_000
    for variable in ("NULLSPACE_CA_CERT", "SSL_CERT_FILE"):
        with monkeypatch.context() as patch:
            patch.setenv(variable, str(certificate[0]))
            with api.System(base_url=relay.url) as system:
                assert system.whoami().scopes == ("*",)


def test_others_are_not(api, relay):
    with raises(SandboxError, "transport_error"), api.System(base_url=relay.url) as system:
        system.whoami()


@pytest.fixture(scope="module")
def server(certificate, tmp_path_factory):
    """A server that speaks TLS, off loopback as well, and its key."""
    data = tmp_path_factory.mktemp("server")
    command = [os.environ["NULLSPACED"], "serve", "--data-dir", str(data), "--listen", "0.0.0.0:0"]
    command += ["--assets-dir", os.environ["NULLSPACE_ASSETS"], "--ready-slots", "1"]
    command += ["--client-config", str(data / "client.json")]
    command += ["--tls-cert", str(certificate[0]), "--tls-key", str(certificate[1])]
    address = data / "listen.addr"
    with open(data / "server.log", "w") as log, subprocess.Popen(command, stderr=log) as process:
        try:
            end = time.monotonic() + 30
            while not address.exists():
                if process.poll() is not None or time.monotonic() > end:
                    pytest.fail((data / "server.log").read_text())
                time.sleep(0.02)
            config = json.loads((data / "client.json").read_text())
            assert config["base_url"].startswith("https://")
            yield {
                "base_url": f"https://127.0.0.1:{address.read_text().rpartition(':')[2]}",
                "api_key": config["api_key"],
            }
        finally:
            process.terminate()
            process.wait(60)


def test_the_server_speaks_it(api, server, certificate):
    options = {**server, "ca_cert": str(certificate[0])}
    with api.Sandbox.create(memory_mb=256, **options) as sandbox:
        assert sandbox.commands.run("echo over TLS", shell=True).stdout == "over TLS\n"
        sandbox.files.write("/tmp/blob", b"\0\1" * 2_000_000)
        assert len(sandbox.files.read("/tmp/blob", format="bytes")) == 4_000_000


def test_plain_text_is_not_taken_there(api, server):
    plain = {**server, "base_url": server["base_url"].replace("https", "http")}
    with raises(SandboxError, "transport_error"), api.System(**plain) as system:
        system.whoami()
