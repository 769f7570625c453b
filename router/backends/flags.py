"""Flags of `serve` about groups that are not workers of ours, and what is checked of them."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from router.backends.backend import Backend, parse_backend
from router.backends.dns_source import parse_dns
from router.backends.engine_client import why_no_key
from router.backends.file_source import read_backends
from router.backends.resolving import Place
from router.errors import ConfigError

SOURCES = ("backends", "backends_file", "backend_dns")
"""Under these names stands, with the others, where backends come from."""


def add_backends(parser: argparse.ArgumentParser) -> None:
    """Add them."""
    group = parser.add_argument_group("backends")
    group.add_argument(
        "--backend",
        dest="backends",
        action="append",
        type=_backend,
        default=[],
        metavar="URL[,kind=KIND][,dp-size=N][,weight=W][,...]",
        help="a server of vLLM, SGLang, llama.cpp or any OpenAI API whose DP ranks are the groups; "
        "may be repeated. Then no worker is started and no model fetched",
    )
    group.add_argument(
        "--backends-file",
        metavar="FILE",
        help="a YAML or TOML file with a list of them, read again when it changes",
    )
    group.add_argument(
        "--backend-dns",
        action="append",
        type=_checked(parse_dns),
        default=[],
        metavar="NAME:PORT[,kind=KIND][,...]",
        help="each address of that name is one, asked for again and again; _SERVICE._PROTO.NAME "
        "asks for SRV records; may be repeated",
    )


def _checked(parse: Callable[[str], object]) -> Callable[[str], str]:
    """The text itself, which other processes parse again, if it can be parsed."""

    def check(text: str) -> str:
        try:
            parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None
        return text

    return check


def check_backends(given: Mapping[str, Any], environment: Mapping[str, str]) -> None:
    """Raise ConfigError if a backend is told twice, or what is told of one cannot be used."""
    seen: set[str] = set()
    for backend in given["backends"]:
        if backend.url in seen:
            raise ConfigError("--backend", backend.url, "is told twice")
        seen.add(backend.url)
        why = why_no_key(backend, environment)
        if why is not None:
            raise ConfigError("--backend", backend.url, why)
    for text in given["backend_dns"]:
        if given["backend_dns"].count(text) > 1:
            raise ConfigError("--backend-dns", text, "is told twice")
        asked = parse_dns(text)
        why = why_no_key(asked.backend(Place("192.0.2.1", 80)), environment)
        if why is not None:
            raise ConfigError("--backend-dns", text, why)
    path = given["backends_file"]
    if path is not None:
        try:
            read_backends(Path(path), environment)
        except ValueError as error:
            raise ConfigError("--backends-file", path, str(error)) from None


def _backend(text: str) -> Backend:
    try:
        return parse_backend(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
