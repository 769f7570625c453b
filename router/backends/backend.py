"""
Backends: other people's engines, told by URL, and the DP groups that they are.

    http[s]://host[:port][,kind=auto|vllm|sglang|llamacpp|openai|levelhead][,dp-size=N][,weight=W]
        [,ca-file=PATH|,insecure-skip-verify=true][,api-key-env=NAME]
        [,kv-events=PORT][,kv-replay=PORT]

A backend is one HTTP server.  It is as many groups as it has DP ranks; each is
addressed at the same host and port, in that engine's own way (see router.backends.addressing).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv6Address

import httpx

from router.backends.kv_endpoint import check_endpoints, parse_endpoint
from router.backends.tls import tls_of

MAX_DP_SIZE = 1024
LEAST_WEIGHT, MOST_WEIGHT = 0.01, 100.0
_DEFAULT_PORTS = {"http": 80, "https": 443}
_AUTO = "auto"
_MAX_PORT = 65535
_URL = re.compile(
    r"(?P<scheme>https?)://(?P<host>[a-z0-9._-]{1,253}|\[[0-9a-f:.]{1,45}\])(?::(?P<port>[0-9]{1,5}))?/?",
    re.IGNORECASE | re.ASCII,
)
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
SETTINGS = (
    "kind", "dp-size", "weight", "ca-file", "insecure-skip-verify", "api-key-env", "kv-events",
    "kv-replay",
)  # fmt: skip
"""What may be said of a backend beside its URL."""


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
    tls: str = ""
    """How its certificate is verified, as router.backends.tls spells it; empty: plain HTTP."""
    api_key_env: str | None = None
    """Variable of the environment with the key for questions of ours; None: it wants none."""
    kv_events: str = ""
    """Where its rank 0 publishes KV events (router.backends.kv_endpoint); empty: nowhere."""
    kv_replay: str = ""

    @property
    def url(self) -> str:
        """Where it answers."""
        return url_of(self.host, self.port, self.tls)


@dataclass(frozen=True, slots=True)
class BackendGroup:
    """One DP group of a backend, as all processes of the instance are told."""

    host: str
    port: int
    kind: Kind
    engine_rank: int | None = None
    """Its rank in an engine that has several; None: there is nothing to tell apart."""
    weight: float = 1.0
    tls: str = ""
    api_key_env: str | None = None
    """These two: see Backend."""
    kv_events: str = ""
    """Where this rank publishes KV events; empty: nowhere."""
    kv_replay: str = ""

    @property
    def url(self) -> str:
        """Where its engine answers."""
        return url_of(self.host, self.port, self.tls)


def url_of(host: str, port: int, tls: str = "") -> str:
    """The URL of a server, without a path."""
    return f"{'https' if tls else 'http'}://{authority_of(host, port)}"


def authority_of(host: str, port: int) -> str:
    """Host and port as they stand in a URL, and in a `Host` header."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def parse_backend(text: str) -> Backend:
    """The backend that `text` tells of.  Raises ValueError, saying what is allowed."""
    _refuse_password(text)
    url, *settings = text.split(",")
    return backend_of(url, parse_settings(settings, "the URL"))


def parse_settings(
    texts: Sequence[str], behind: str, allowed: Sequence[str] = SETTINGS
) -> dict[str, str]:
    """What `name=value` says, by name.  Raises ValueError for another name, or one told twice."""
    settings: dict[str, str] = {}
    for text in texts:
        name, _, value = text.partition("=")
        if name not in allowed:
            names = ", ".join(f"{each}=..." for each in allowed[:-1])
            raise ValueError(f"{text!r}: allowed after {behind} are {names} and {allowed[-1]}=...")
        if name in settings:
            raise ValueError(f"{text!r}: {name} is told twice")
        settings[name] = value
    return settings


def backend_of(url: str, settings: Mapping[str, str]) -> Backend:
    """The backend of that URL, with these SETTINGS.  Raises ValueError, saying what is allowed."""
    _refuse_password(url)
    scheme, host, port = _address(url)
    kind, dp_size = _kind(settings.get("kind", _AUTO)), None
    if "dp-size" in settings:
        dp_size = _dp_size(settings["dp-size"])
    if kind is not None and dp_size not in (None, 1) and not kind.has_ranks:
        raise ValueError(f"dp-size={dp_size}: {kind} has no DP ranks that can be asked for")
    events, replay = (
        parse_endpoint(name, settings[name], host) if name in settings else ""
        for name in ("kv-events", "kv-replay")
    )
    check_endpoints(kind, events, replay)
    return Backend(
        host,
        port,
        kind,
        dp_size,
        weight=_weight(settings.get("weight", "1")),
        tls=tls_of(scheme, settings.get("ca-file"), settings.get("insecure-skip-verify")),
        api_key_env=_variable(settings.get("api-key-env")),
        kv_events=events,
        kv_replay=replay,
    )


def _refuse_password(text: str) -> None:
    """What is before an @ may be one, which is for no log."""
    _, at, behind = text.rpartition("@")
    if at:
        raise ValueError(f"'***@{behind}': allowed is http://host:port, without user or password")


def _address(url: str) -> tuple[str, str, int]:
    """Scheme, host and port."""
    told = _URL.fullmatch(url)
    if told is None:
        raise ValueError(
            f"{url!r}: allowed is http://host:port, and nothing behind it, or the same with "
            "https; an IPv6 address in brackets, without a zone"
        )
    scheme, host, port = told["scheme"].lower(), told["host"], told["port"]
    if port is not None and not 1 <= int(port) <= _MAX_PORT:
        raise ValueError(f"{url!r}: allowed are ports 1 to {_MAX_PORT}")
    host = _ipv6(host[1:-1]) if host.startswith("[") else _name(host)
    return scheme, host, _DEFAULT_PORTS[scheme] if port is None else int(port)


def _ipv6(host: str) -> str:
    """As it is always spelt: a backend is known by its URL."""
    try:
        return str(IPv6Address(host))
    except ValueError:
        raise ValueError(f"[{host}]: that is no IPv6 address") from None


def _name(host: str) -> str:
    """A name or an IPv4 address, as whoever asks there takes it: 999.1.1.1 and xn--a are none."""
    try:
        httpx.URL(scheme="http", host=host.lower()).host.encode()  # reads Punycode, not before
    except (httpx.InvalidURL, UnicodeError) as error:
        raise ValueError(f"{host!r}: that is no host's name or address: {error}") from None
    return host.lower()


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
    if not LEAST_WEIGHT <= weight <= MOST_WEIGHT:
        raise ValueError(f"weight={value}: allowed are {LEAST_WEIGHT:g} to {MOST_WEIGHT:g}")
    return weight


def _variable(name: str | None) -> str | None:
    if name is not None and not _VARIABLE.fullmatch(name):
        raise ValueError(
            "api-key-env: allowed is the name of an environment variable: letters, digits and _"
        )  # what stands there may be the key itself, which is for no log
    return name
