"""Key and URL come from the first place that has them, in the documented order."""

import json

import pytest

from nullspace import AuthError, SandboxError
from nullspace._config import parse_dotenv, resolve

VARIABLES = (
    "NULLSPACE_API_KEY",
    "NULLSPACE_API_URL",
    "NULLSPACE_BASE_URL",
    "NULLSPACE_CA_CERT",
    "SSL_CERT_FILE",
    "XDG_CONFIG_HOME",
)


@pytest.fixture
def home(tmp_path, monkeypatch):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    return tmp_path


def write_config(directory, **settings):
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(settings))


def test_each_place_wins_over_those_after_it(home, monkeypatch):
    write_config(home / ".nullspace", api_key="from-home")
    assert resolve().api_key == "from-home"
    write_config(home / ".config" / "nullspace", api_key="from-xdg-default")
    assert resolve().api_key == "from-xdg-default"
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home / "xdg"))
    write_config(home / "xdg" / "nullspace", api_key="from-xdg")
    assert resolve().api_key == "from-xdg"
    (home / "work" / ".env").write_text("NULLSPACE_API_KEY=from-dotenv\n")
    assert resolve().api_key == "from-dotenv"
    monkeypatch.setenv("NULLSPACE_API_KEY", "from-environment")
    assert resolve().api_key == "from-environment"
    assert resolve(api_key="from-argument").api_key == "from-argument"


def test_blank_counts_as_missing_everywhere(home, monkeypatch):
    write_config(home / ".nullspace", api_key="real")
    write_config(home / ".config" / "nullspace", api_key="  ")
    (home / "work" / ".env").write_text("NULLSPACE_API_KEY=\n")
    monkeypatch.setenv("NULLSPACE_API_KEY", "   ")
    assert resolve(api_key="").api_key == "real"


def test_base_url_order(home, monkeypatch):
    def url(**arguments):
        return resolve(api_key="k", **arguments).base_url

    assert url() == "http://localhost:3000"
    write_config(home / ".nullspace", base_url="http://home-base:1", api_url="http://home-api:1")
    assert url() == "http://home-base:1"
    # The first file wins per key, and base_url comes before api_url.
    write_config(home / ".config" / "nullspace", api_url="http://xdg-api:1")
    assert url() == "http://home-base:1"
    write_config(home / ".config" / "nullspace", base_url="http://xdg-base:1")
    assert url() == "http://xdg-base:1"
    (home / "work" / ".env").write_text("NULLSPACE_BASE_URL=http://dotenv-base:1\n")
    assert url() == "http://dotenv-base:1"
    (home / "work" / ".env").write_text(
        "NULLSPACE_BASE_URL=http://dotenv-base:1\nNULLSPACE_API_URL=http://dotenv-api:1\n"
    )
    assert url() == "http://dotenv-api:1"
    monkeypatch.setenv("NULLSPACE_BASE_URL", "http://base:1")
    assert url() == "http://base:1"
    monkeypatch.setenv("NULLSPACE_API_URL", "http://api:1")
    assert url() == "http://api:1"
    assert url(base_url="http://argument:1") == "http://argument:1"


def test_no_key_is_said_before_any_request(home):
    with pytest.raises(AuthError) as caught:
        resolve()
    assert caught.value.code == "unauthorized"


@pytest.mark.parametrize("key", ["schlüssel", "a b", "a\nb", "\x00"])
def test_a_key_that_no_header_can_carry_is_refused(home, key):
    with pytest.raises(AuthError):
        resolve(api_key=key)


@pytest.mark.parametrize(
    ("url", "target", "secure"),
    [
        ("http://localhost:3000", "localhost:3000", False),
        ("http://localhost:3000/", "localhost:3000", False),
        ("https://api.example.com", "api.example.com:443", True),
        ("http://10.0.0.1", "10.0.0.1:80", False),
        ("https://[::1]:8443", "[::1]:8443", True),
    ],
)
def test_urls(home, url, target, secure):
    config = resolve(api_key="k", base_url=url)
    assert (config.target, config.secure) == (target, secure)


@pytest.mark.parametrize(
    "url",
    [
        "localhost:3000",
        "ftp://x",
        "http://",
        "http://x:port",
        "http://x/v1",
        "http://x?q",
        "http://u@x",
        "///",
    ],
)
def test_urls_that_cannot_be_used(home, url):
    with pytest.raises(SandboxError) as caught:
        resolve(api_key="k", base_url=url)
    assert caught.value.code == "invalid_request"
    assert caught.value.details["violations"][0]["field"] == "base_url"


def test_certificates_are_read_for_https_only(home, monkeypatch):
    certificate = home / "ca.pem"
    certificate.write_bytes(b"PEM")
    monkeypatch.setenv("SSL_CERT_FILE", str(home / "missing.pem"))
    assert resolve(api_key="k", base_url="http://x").ca_cert is None
    monkeypatch.setenv("NULLSPACE_CA_CERT", str(certificate))
    assert resolve(api_key="k", base_url="https://x").ca_cert == b"PEM"
    with pytest.raises(SandboxError) as caught:
        resolve(api_key="k", base_url="https://x", ca_cert=str(home / "missing.pem"))
    assert caught.value.code == "invalid_request"


def test_a_broken_config_file_is_named_and_only_when_it_is_needed(home):
    directory = home / ".nullspace"
    directory.mkdir()
    (directory / "config.json").write_text("{")
    assert resolve(api_key="k", base_url="http://x").api_key == "k"
    with pytest.raises(SandboxError) as caught:
        resolve(api_key="k")
    assert caught.value.code == "invalid_request"
    assert "config.json" in caught.value.message


def test_the_key_is_not_shown(home):
    assert "secret" not in repr(resolve(api_key="secret"))


def test_dotenv():
    assert parse_dotenv(
        """
        # a comment
        A=1
        export B = two words # and a comment
        C="quoted # not a comment" # but this
        D='single'
        E=
        nonsense
        =x
        F=a#b
        """
    ) == {"A": "1", "B": "two words", "C": "quoted # not a comment", "D": "single", "E": "", "F": "a#b"}
