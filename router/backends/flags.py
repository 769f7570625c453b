"""Flags of `serve` about groups that are not workers of ours."""

from __future__ import annotations

import argparse

from router import flag_values as values
from router.backends.backend import Backend, parse_backend

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
        metavar="URL[,kind=KIND][,dp-size=N][,weight=W]",
        help="a server of vLLM, SGLang, llama.cpp or any OpenAI API whose DP ranks are the groups; "
        "may be repeated. Then no worker is started and no model fetched",
    )
    group.add_argument(
        "--max-groups",
        type=values.integer(1, MAX_GROUPS),
        metavar="N",
        help="DP groups of backends that there may be at a time, those that come while the "
        "instance runs among them (default: 64, or as many as are found at the start)",
    )


def _backend(text: str) -> Backend:
    try:
        return parse_backend(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
