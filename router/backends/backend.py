"""
Backends: other people's engines, told by URL, and the DP groups that they are.

    http://host:port[,kind=auto|vllm|sglang|llamacpp|openai|levelhead][,dp-size=N][,weight=W]
                    [,kv-events=PORT][,kv-replay=PORT]

A backend is one HTTP server.  It is as many groups as it has DP ranks; each is
addressed at the same host and port, in that engine's own way (see router.backends.addressing).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv6Address

from router.backends.kv_endpoint import check_endpoints, parse_endpoint

MAX_DP_SIZE = 1024
_LEAST_WEIGHT, _MOST_WEIGHT = 0.01, 100.0
_DEFAULT_PORT = 80
_AUTO = "auto"
_MAX_PORT = 65535
_URL = re.compile(
    r"http://(?P<host>[a-z0-9._-]+|\[[0-9a-f:.]+\])(?::(?P<port>[0-9]{1,5}))?/?",
    re.IGNORECASE | re.ASCII,
)


class Kind(StrEnum):
    """What answers."""

    VLLM = "vllm"
    SGLANG = "sglang"
    LLAMACPP = "llamacpp"
    OPENAI = "openai"
    """Anything else that speaks OpenAI's API."""
    LEVELHEAD = "levelhead"
    """Another instance's front door."""

    @property
    def has_ranks(self) -> bool:
        """Whether one such server may have several DP ranks that can be asked for."""
        return self in (Kind.VLLM, Kind.SGLANG)


@dataclass(frozen=True, slots=True)
class Backend:
    """What a `--backend` says; None: to be found out."""

    host: str
    port: int
    kind: Kind | None = None
    dp_size: int | None = None
    weight: float = 1.0
    """Share of the load that each of its groups takes, beside groups of weight 1."""
    kv_events: str = ""
    """Where its rank 0 publishes KV events (router.backends.kv_endpoint); empty: nowhere."""
    kv_replay: str = ""

    @property
    def url(self) -> str:
        """Where it answers."""
        return url_of(self.host, self.port)


@dataclass(frozen=True, slots=True)
class BackendGroup:
    """One DP group of a backend, as all processes of the instance are told."""

    host: str
    port: int
    kind: Kind
    engine_rank: int | None = None
    """Its rank in an engine that has several; None: there is nothing to tell apart."""
    weight: float = 1.0
    kv_events: str = ""
    """Where this rank publishes KV events; empty: nowhere."""
    kv_replay: str = ""

    @property
    def url(self) -> str:
        """Where its engine answers."""
        return url_of(self.host, self.port)


def url_of(host: str, port: int) -> str:
    """The URL of a server, without a path."""
    return f"http://{authority_of(host, port)}"


def authority_of(host: str, port: int) -> str:
    """Host and port as they stand in a URL, and in a `Host` header."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def parse_backend(text: str) -> Backend:
    """The backend that `text` tells of.  Raises ValueError, saying what is allowed."""
    _, at, behind = text.rpartition("@")
    if at:  # what is before it may be a password, which is for no log
        raise ValueError(f"'***@{behind}': allowed is http://host:port, without user or password")
    url, *settings = text.split(",")
    host, port = _address(url)
    kind, dp_size, weight, endpoints = None, None, 1.0, {"kv-events": "", "kv-replay": ""}
    for setting in settings:
        name, _, value = setting.partition("=")
        if name == "kind":
            kind = _kind(value)
        elif name == "dp-size":
            dp_size = _dp_size(value)
        elif name == "weight":
            weight = _weight(value)
        elif name in endpoints:
            endpoints[name] = parse_endpoint(name, value, host)
        else:
            raise ValueError(
                f"{setting!r}: allowed after the URL are kind=..., dp-size=..., weight=..., "
                "kv-events=... and kv-replay=..."
            )
    if kind is not None and dp_size not in (None, 1) and not kind.has_ranks:
        raise ValueError(f"dp-size={dp_size}: {kind} has no DP ranks that can be asked for")
    check_endpoints(kind, *endpoints.values())
    return Backend(host, port, kind, dp_size, weight, *endpoints.values())


def _address(url: str) -> tuple[str, int]:
    told = _URL.fullmatch(url)
    if told is None:
        raise ValueError(
            f"{url!r}: allowed is http://host:port, and nothing behind it; an IPv6 address in "
            "brackets, without a zone"
        )
    host, port = told["host"], told["port"]
    if port is not None and not 1 <= int(port) <= _MAX_PORT:
        raise ValueError(f"{url!r}: allowed are ports 1 to {_MAX_PORT}")
    if host.startswith("["):
        host = _ipv6(host[1:-1])
    return host.lower(), _DEFAULT_PORT if port is None else int(port)


def _ipv6(host: str) -> str:
    try:
        IPv6Address(host)
    except ValueError:
        raise ValueError(f"[{host}]: that is no IPv6 address") from None
    return host


def _kind(value: str) -> Kind | None:
    if value == _AUTO:
        return None
    try:
        return Kind(value)
    except ValueError:
        allowed = ", ".join((_AUTO, *Kind))
        raise ValueError(f"kind={value}: allowed are {allowed}") from None


def _dp_size(value: str) -> int:
    if not (value.isascii() and value.isdigit()) or not 1 <= int(value) <= MAX_DP_SIZE:
        raise ValueError(f"dp-size={value}: allowed are integers, 1 to {MAX_DP_SIZE}")
    return int(value)


def _weight(value: str) -> float:
    try:
        weight = float(value)
    except ValueError:
        weight = 0.0
    if not _LEAST_WEIGHT <= weight <= _MOST_WEIGHT:
        raise ValueError(f"weight={value}: allowed are {_LEAST_WEIGHT:g} to {_MOST_WEIGHT:g}")
    return weight
