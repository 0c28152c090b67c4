"""Where the server is and which key to use."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, Optional
from urllib.parse import urlsplit

from nullspace.errors import AuthError, SandboxError, error_of, invalid_request

DEFAULT_URL = "http://localhost:3000"


@dataclass(frozen=True)
class Config:
    """A server and a key: all that a connection depends on."""

    #: Such as ``http://localhost:3000``.
    base_url: str
    #: ``host:port``.
    target: str
    #: TLS, for ``https://``.
    secure: bool
    api_key: str = field(repr=False)
    #: Certificates to trust, in PEM. None: those that grpc brings.
    ca_cert: Optional[bytes] = field(default=None, repr=False)


def resolve(
    api_key: Optional[str] = None, base_url: Optional[str] = None, ca_cert: Optional[str] = None
) -> Config:
    """Finds key, URL and certificates.

    Key: argument, NULLSPACE_API_KEY, ``.env`` in the working directory,
    ``$XDG_CONFIG_HOME/nullspace/config.json``, ``~/.nullspace/config.json``.
    URL: argument, NULLSPACE_API_URL, NULLSPACE_BASE_URL, both again in ``.env``,
    ``base_url`` and ``api_url`` of the files, ``http://localhost:3000``.
    Certificates for https: argument, NULLSPACE_CA_CERT, SSL_CERT_FILE (a path).
    Blank counts as missing. Sources after the first that answers are not read.

    Raises:
        AuthError: ``unauthorized``, no key anywhere.
        SandboxError: ``invalid_request``, an unusable URL or file.
    """
    sources = _Sources()
    url = (
        _present(base_url)
        or sources.variable("NULLSPACE_API_URL", "NULLSPACE_BASE_URL")
        or sources.setting("base_url", "api_url")
        or DEFAULT_URL
    )
    target, secure = _target(url)
    key = _present(api_key) or sources.variable("NULLSPACE_API_KEY") or sources.setting("api_key")
    if key is None:
        raise error_of(
            "missing_api_key",
            "no API key: pass api_key, set NULLSPACE_API_KEY, or put `api_key` into "
            "~/.config/nullspace/config.json",
            retryable=False,
            suggested_action="Create an API key and set NULLSPACE_API_KEY.",
        )
    if not (key.isascii() and key.isprintable()) or " " in key:
        # It would not pass as a header, and the transport's words for that
        # name neither the key nor the cause.
        raise AuthError("the API key has characters that no key has", retryable=False)
    roots = None
    if secure:
        path = _present(ca_cert) or _present(os.environ.get("NULLSPACE_CA_CERT"))
        path = path or _present(os.environ.get("SSL_CERT_FILE"))
        roots = None if path is None else _read_certificates(path)
    return Config(base_url=url, target=target, secure=secure, api_key=key, ca_cert=roots)


def _present(value: Optional[str]) -> Optional[str]:
    value = (value or "").strip()
    return value or None


def _target(url: str) -> tuple[str, bool]:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise invalid_request(("base_url", f"{url!r}: {error}")) from None
    if parts.scheme not in ("http", "https") or not host:
        raise invalid_request(("base_url", f"{url!r} is not http://HOST[:PORT] or https://HOST[:PORT]"))
    if parts.path.strip("/") or parts.query or parts.fragment or parts.username:
        raise invalid_request(("base_url", f"{url!r} must not have more than scheme, host and port"))
    secure = parts.scheme == "https"
    host = f"[{host}]" if ":" in host else host
    return f"{host}:{port if port is not None else 443 if secure else 80}", secure


def _read_certificates(path: str) -> bytes:
    try:
        return Path(path).expanduser().read_bytes()
    except OSError as error:
        raise invalid_request(("ca_cert", f"{path}: {error.strerror}")) from error


class _Sources:
    """The places that are looked at, each read when it is first needed."""

    def __init__(self) -> None:
        self._dotenv: Optional[Mapping[str, str]] = None
        self._files: Optional[list[Mapping[str, Any]]] = None

    def variable(self, *names: str) -> Optional[str]:
        found = _first(names, os.environ.get)
        if found is None:
            if self._dotenv is None:
                self._dotenv = parse_dotenv(_read_text(Path(".env")) or "")
            found = _first(names, self._dotenv.get)
        return found

    def setting(self, *names: str) -> Optional[str]:
        if self._files is None:
            self._files = [settings for path in _config_files() if (settings := _read_json(path)) is not None]
        files = self._files
        return _first(names, lambda name: _first_text(settings.get(name) for settings in files))


def _first(names: tuple[str, ...], get: Callable[[str], Optional[str]]) -> Optional[str]:
    return next((found for name in names if (found := _present(get(name))) is not None), None)


def _first_text(values: Any) -> Optional[str]:
    return next((value for value in values if isinstance(value, str) and _present(value)), None)


def _config_files() -> list[Path]:
    home = Path(os.path.expanduser("~"))
    xdg = _present(os.environ.get("XDG_CONFIG_HOME"))
    base = Path(xdg) if xdg else home / ".config"
    return [base / "nullspace" / "config.json", home / ".nullspace" / "config.json"]


def _read_text(path: Path) -> Optional[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None
    except OSError as error:
        raise _unreadable(path, error) from error


def _read_json(path: Path) -> Optional[Mapping[str, Any]]:
    text = _read_text(path)
    if text is None:
        return None
    try:
        settings = json.loads(text)
    except ValueError as error:
        raise _unreadable(path, error) from error
    if not isinstance(settings, dict):
        raise _unreadable(path, "is not a JSON object")
    return settings


def _unreadable(path: Path, cause: object) -> SandboxError:
    return invalid_request(("config", f"{path}: {cause}"))


def parse_dotenv(text: str) -> dict[str, str]:
    """Reads ``NAME=value`` lines: ``export``, quotes and comments are understood."""
    values: dict[str, str] = {}
    for line in text.splitlines():
        line = line.strip()
        if line.startswith("export "):
            line = line[len("export ") :].lstrip()
        name, equals, value = line.partition("=")
        name, value = name.strip(), value.strip()
        if not equals or not name or name.startswith("#"):
            continue
        if value[:1] in ("'", '"') and (end := value.find(value[0], 1)) > 0:
            value = value[1:end]
        else:
            value = value.split(" #", 1)[0].rstrip()
        values[name] = value
    return values
