"""Flags of `serve` about groups that are not workers of ours."""

from __future__ import annotations

import argparse
from pathlib import Path

from router.backends.backend import Backend, parse_backend


def add_backends(parser: argparse.ArgumentParser) -> None:
    """Add them."""
    group = parser.add_argument_group("backends")
    group.add_argument(
        "--backend",
        dest="backends",
        action="append",
        type=_backend,
        default=[],
        metavar="URL[,kind=KIND][,dp-size=N][,weight=W][,kv-events=PORT][,kv-replay=PORT]",
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


def _backend(text: str) -> Backend:
    try:
        return parse_backend(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
