"""
Where an engine publishes its KV cache events, and where it repeats them.

`kv-events=` and `kv-replay=`, each

    PORT               at the backend's own host
    tcp://host:port    anywhere

What is told is that of rank 0.  vLLM and SGLang both add the DP rank to the port, so rank r of
an engine publishes at the told port + r, and repeats at the other one + r.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.util import find_spec

_MAX_PORT = 65535
_SCHEME = "tcp://"
_ENDPOINT = re.compile(
    r"(?:tcp://(?P<host>[a-z0-9](?:[a-z0-9._-]{0,251}[a-z0-9])?\.?|\[[0-9a-f:.]{1,45}\]):)?(?P<port>[0-9]{1,5})",
    re.IGNORECASE | re.ASCII,
)
EXTRA = "levelhead[kv-events]"
_PUBLISHING = ("vllm", "sglang")
_LIBRARIES = ("zmq", "msgspec")


def parse_endpoint(name: str, value: str, host: str) -> str:
    """The endpoint of rank 0 that a setting tells.  Raises ValueError, saying what is allowed."""
    told = _ENDPOINT.fullmatch(value)
    if told is None or not 1 <= int(told["port"]) <= _MAX_PORT:
        raise ValueError(
            f"{name}={value}: allowed are a port, 1 to {_MAX_PORT}, and tcp://host:port"
        )
    at = told["host"] or (f"[{host}]" if ":" in host else host)
    return f"{_SCHEME}{at.lower()}:{int(told['port'])}"


def check_endpoints(kind: str | None, events: str, replay: str) -> None:
    """Raise ValueError if that kind of engine publishes nothing, or only what was is told."""
    if events and kind not in (None, *_PUBLISHING):
        raise ValueError(f"kv-events: {kind} publishes none, {' and '.join(_PUBLISHING)} do")
    if replay and not events:
        raise ValueError("kv-replay: allowed only beside kv-events=...")


def check_ports(settings: Mapping[str, str]) -> None:
    """Raise ValueError if what many backends have in common names one host for all of them."""
    for name in ("kv-events", "kv-replay"):
        if settings.get(name, "").lower().startswith(_SCHEME):
            raise ValueError(
                f"{name}={settings[name]}: allowed is a port, at each backend's own host"
            )


def of_rank(endpoint: str, engine_rank: int) -> str:
    """Where that rank publishes; empty stays empty.  Raises ValueError: there is no such port."""
    if not endpoint:
        return ""
    before, _, port = endpoint.rpartition(":")
    if int(port) + engine_rank > _MAX_PORT:
        raise ValueError(f"{endpoint}: DP rank {engine_rank} would be at a port over {_MAX_PORT}")
    return f"{before}:{int(port) + engine_rank}"


def why_not(tokenizer_path: object) -> str | None:
    """What `kv-events=` lacks in this installation and with these flags; None: nothing."""
    if any(find_spec(library) is None for library in _LIBRARIES):
        return f"needs pyzmq and msgspec: pip install '{EXTRA}'"
    if tokenizer_path is None:
        return "names pages by token ids: say --tokenizer-path too, the folder of the tokenizer"
    return None
