"""How connections are set up: the same for both flavours."""

from __future__ import annotations

import ipaddress
from typing import Union

from nullspace._config import Config
from nullspace._limits import (
    CONNECT_TIMEOUT_MS,
    KEEPALIVE_TIME_MS,
    KEEPALIVE_TIMEOUT_MS,
    MAX_MESSAGE_BYTES,
    RECONNECT_FIRST_MS,
    RECONNECT_MAX_MS,
)
from nullspace._version import __version__

ChannelOption = tuple[str, Union[int, str]]


def channel_options(config: Config) -> list[ChannelOption]:
    """Options of every channel."""
    options: list[ChannelOption] = [
        ("grpc.primary_user_agent", f"nullspace-python/{__version__}"),
        # Channels to one address share connections by default; ours exist to be
        # separate, so that streams that stand still do not hold up calls.
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
        ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
        ("grpc.keepalive_time_ms", KEEPALIVE_TIME_MS),
        ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MS),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.initial_reconnect_backoff_ms", RECONNECT_FIRST_MS),
        ("grpc.max_reconnect_backoff_ms", RECONNECT_MAX_MS),
        ("grpc.min_reconnect_backoff_ms", CONNECT_TIMEOUT_MS),
        # Calls are repeated by this client, which knows when that is safe.
        ("grpc.enable_retries", 0),
        ("grpc.service_config_disable_resolution", 1),
    ]
    if _is_local(config.target.rpartition(":")[0].strip("[]")):
        # A proxy of the environment cannot reach this machine's own addresses.
        options.append(("grpc.enable_http_proxy", 0))
    return options


def call_metadata(config: Config) -> tuple[tuple[str, str], ...]:
    """Metadata of every call. By hand, because grpc's credentials refuse plain text."""
    return (("authorization", f"Bearer {config.api_key}"),)


def _is_local(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
