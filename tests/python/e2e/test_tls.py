"""TLS, by a relay that speaks it before the server."""

import ssl
import subprocess

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
