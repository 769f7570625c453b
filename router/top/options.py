"""What `levelhead top` was asked to do: its flags, each checked before anything is read."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from router import flag_values as values
from router.errors import ConfigError
from router.flags import FlagParser

_KEYS = {"api_key": "LEVELHEAD_API_KEY", "admin_api_key": "LEVELHEAD_ADMIN_API_KEY"}
_LEAST_INTERVAL_S = 0.1
_PATHS = ("", "/", "/v1", "/v1/")


@dataclass(frozen=True, slots=True)
class TopOptions:
    """The flags."""

    url: str | None
    """Front door of an instance elsewhere; None: one on this host, by its segments."""
    instance: str | None
    interval_s: float
    is_once: bool
    as_json: bool
    api_key: str | None
    admin_api_key: str | None


def parse_top(arguments: Sequence[str], environment: Mapping[str, str]) -> TopOptions:
    """Return the options.  Raises ConfigError; --help prints and exits."""
    given = top_parser().parse_args(arguments)
    if given.json and not given.once:
        raise ConfigError("--json", "without --once", "give both")
    if given.url is not None and given.instance is not None:
        raise ConfigError("--instance", given.instance, f"not together with {given.url}")
    keys = {name: getattr(given, name) or environment.get(key) for name, key in _KEYS.items()}
    return TopOptions(
        url=None if given.url is None else _origin(given.url),
        instance=given.instance,
        interval_s=given.interval,
        is_once=given.once,
        as_json=given.json,
        api_key=keys["api_key"] or None,
        admin_api_key=keys["admin_api_key"] or keys["api_key"] or None,
    )


def top_parser() -> argparse.ArgumentParser:
    """The parser of `levelhead top`."""
    parser = FlagParser(
        prog="levelhead top",
        description="Show the DP groups of a running instance live: what each holds, what is in "
        "flight to it and waits in it, how level they are, rates, latencies, decisions.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "url",
        nargs="?",
        metavar="URL",
        help="front door of the instance, http://host:port (default: one on this host, whose "
        "segments are read)",
    )
    parser.add_argument(
        "--instance",
        type=values.instance,
        metavar="NAME",
        help="which one on this host (default: the only one that is running)",
    )
    _add_manner(parser)
    _add_keys(parser)
    return parser


def _add_manner(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--interval",
        type=values.seconds(_LEAST_INTERVAL_S),
        default=1.0,
        metavar="S",
        help="time between two looks",
    )
    parser.add_argument(
        "--once", action="store_true", help="look twice, an interval apart, print that and end"
    )
    parser.add_argument("--json", action="store_true", help="with --once: one JSON object")


def _add_keys(parser: argparse.ArgumentParser) -> None:
    better = "what stands on a command line, every user of this machine can read"
    parser.add_argument(
        "--api-key",
        metavar="KEY",
        help=f"of the instance at URL. Better set LEVELHEAD_API_KEY: {better}",
    )
    parser.add_argument(
        "--admin-api-key",
        metavar="KEY",
        help="the same for /admin, whence recent decisions come (default: the API key). Better "
        "set LEVELHEAD_ADMIN_API_KEY, for the same reason",
    )


def _origin(url: str) -> str:
    """Raises ConfigError unless it is scheme, host and port of a front door, or that and /v1."""
    allowed = "allowed is http://host:port or https://host:port"
    try:
        parts = urlsplit(url)
        named = parts.hostname and (parts.port or True)
    except ValueError as error:
        raise ConfigError("URL", url, f"{allowed} ({error})") from None
    is_more = parts.query or parts.fragment or "@" in parts.netloc or parts.path not in _PATHS
    if parts.scheme not in ("http", "https") or not named or is_more:
        raise ConfigError("URL", url, allowed)
    return f"{parts.scheme}://{parts.netloc}"
