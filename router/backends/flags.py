"""Flags of `serve` about groups that are not workers of ours, and what is checked of them."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from router import flag_values as values
from router.backends.backend import Backend, parse_backend
from router.backends.dns_source import DnsName, parse_dns
from router.backends.file_source import read_backends
from router.backends.kubernetes.flags import add_kubernetes
from router.backends.kubernetes.service import Service, parse_service
from router.backends.lacks import Lacks
from router.errors import ConfigError

SOURCES = ("backends", "backends_file", "backend_dns", "backend_kubernetes")
"""Under these names stands, with the others, where backends come from."""

MAX_GROUPS = 1024


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
        "--tokenizer-path",
        type=Path,
        metavar="DIR",
        help="Hugging Face folder of the backends' tokenizer and chat template: prompts of text "
        "are counted exactly, and kv-events=... can be used",
    )
    _add_sources(group)
    group.add_argument(
        "--max-groups",
        type=values.integer(1, MAX_GROUPS),
        metavar="N",
        help="DP groups of backends that there may be at a time, those that come while the "
        "instance runs among them (default: 64, or as many as are found at the start)",
    )


def _add_sources(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--backends-file",
        metavar="FILE",
        help="a YAML or TOML file with a list of them, read again when it changes",
    )
    group.add_argument(
        "--backend-dns",
        action="append",
        type=values.checked(parse_dns),
        default=[],
        metavar="NAME:PORT[,kind=KIND][,...]",
        help="each address of that name is one, asked for again and again; _SERVICE._PROTO.NAME "
        "asks for SRV records; may be repeated",
    )
    add_kubernetes(group)


def check_backends(given: Mapping[str, Any], environment: Mapping[str, str]) -> None:
    """Raise ConfigError if a backend is told twice, or what is told of one cannot be used."""
    lacks = Lacks(environment, given["tokenizer_path"])
    seen: set[str] = set()
    for backend in given["backends"]:
        if backend.url in seen:
            raise ConfigError("--backend", backend.url, "is told twice")
        seen.add(backend.url)
        _refuse("--backend", backend.url, lacks.of(backend))
    for text in given["backend_dns"]:
        _check("--backend-dns", text, given["backend_dns"], parse_dns, lacks)
    for text in given["backend_kubernetes"]:
        _check("--backend-kubernetes", text, given["backend_kubernetes"], parse_service, lacks)
    path = given["backends_file"]
    if path is not None:
        try:
            read_backends(Path(path), lacks)
        except ValueError as error:
            raise ConfigError("--backends-file", path, str(error)) from None


def _check(
    flag: str,
    text: str,
    texts: Sequence[str],
    parse: Callable[[str], DnsName | Service],
    lacks: Lacks,
) -> None:
    _refuse(flag, text, "is told twice" if texts.count(text) > 1 else None)
    _refuse(flag, text, lacks.of(parse(text).backend("192.0.2.1", 80)))


def _refuse(flag: str, value: str, why: str | None) -> None:
    if why is not None:
        raise ConfigError(flag, value, why)


def _backend(text: str) -> Backend:
    try:
        return parse_backend(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
