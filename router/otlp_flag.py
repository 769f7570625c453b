"""`--otlp-traces-endpoint`, spelt as in vLLM and SGLang, and what is said of it before a start."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any
from urllib.parse import urlsplit

from router.errors import ConfigError

_FLAG = "--otlp-traces-endpoint"
_PARTS = ("opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http")
_PATH = "/v1/traces"


def add_otlp(group: argparse._ArgumentGroup) -> None:
    """Add it."""
    group.add_argument(
        _FLAG,
        metavar="URL",
        help="send a span of each dispatch of a traced request there: OTLP over HTTP, "
        f"http://HOST:4318{_PATH}",
    )


def check_otlp(given: dict[str, Any], find: Callable[[str], object] = find_spec) -> None:
    """
    Complete the URL; raise ConfigError if it is none, or the library is not installed.

    `find`: looks for a module by name.
    """
    url = given["otlp_traces_endpoint"]
    if url is None:
        return
    try:
        parts = urlsplit(url)
        is_url = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_url = False
    if not is_url:
        allowed = f"must be http://HOST:PORT[/PATH] or https://...: OTLP over HTTP (usually {_PATH}"
        raise ConfigError(_FLAG, url, f"{allowed} at port 4318), not gRPC")
    if not all(_is_there(part, find) for part in _PARTS):
        raise ConfigError(
            _FLAG, url, "needs packages that are not there: pip install 'levelhead[otel]'"
        )
    if parts.path in ("", "/"):
        given["otlp_traces_endpoint"] = parts._replace(path=_PATH).geturl()


def _is_there(name: str, find: Callable[[str], object]) -> bool:
    try:
        return find(name) is not None
    except ModuleNotFoundError:
        return False
