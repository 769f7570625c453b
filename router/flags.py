"""
The parser of `levelhead serve`: its flags, group by group.

Spelt as in SGLang and vLLM where the meaning is the same.  What an option
means to the rest of the program stands in router.options.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

from balancer.methods import DEFAULT_METHOD, METHODS
from router import flag_values as values
from router.backends.flags import add_backends
from router.emulation_flags import EMULATED, add_emulation
from router.errors import ConfigError
from router.health_flags import add_health
from router.logs import LOG_LEVELS
from router.model_source import DEFAULT_MODEL
from router.parallel_flags import add_parallelism
from router.waiting_flags import add_waiting

_DEVICES = ("cpu", "cuda", EMULATED)
_DTYPES = ("auto", "float32", "bfloat16", "float16")
_MAX_FRONT_DOORS = 64
_MAX_RETRIES = 16
_LEAST_LOAD_AGE_S = 0.001


class FlagParser(argparse.ArgumentParser):
    """Raises what argparse would print and exit with."""

    def error(self, message: str) -> NoReturn:
        """Raise ConfigError."""
        raise ConfigError(f"{self.prog}:", message, "see --help")


def serve_parser(environment: Mapping[str, str]) -> argparse.ArgumentParser:
    """The parser of `levelhead serve`."""
    parser = FlagParser(
        prog="levelhead serve",
        description="Start DP groups and a front door that keeps them level.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add_backends(parser)
    add_parallelism(parser)
    _add_balance(parser)
    add_waiting(parser, is_bounded=True)
    add_health(parser)
    _add_model(parser, environment)
    add_emulation(parser)
    _add_http(parser)
    _add_limits(parser)
    _add_instance(parser)
    return parser


def _add_balance(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("balance")
    group.add_argument(
        "--load-balance-method",
        default=DEFAULT_METHOD,
        choices=tuple(METHODS),
        help="how a front door chooses a DP group",
    )
    group.add_argument(
        "--max-load-age",
        dest="max_load_age_s",
        type=values.seconds(_LEAST_LOAD_AGE_S),
        default=2.0,
        metavar="S",
        help="age beyond which a group's figures count for nothing, and the front doors' own "
        "books stand in",
    )
    group.add_argument(
        "--no-in-flight-board",
        action="store_true",
        help="each front door sees only what it sent itself: to measure what the board brings",
    )


def _add_model(parser: argparse.ArgumentParser, environment: Mapping[str, str]) -> None:
    group = parser.add_argument_group("model")
    group.add_argument(
        "--model",
        "--model-path",
        default=DEFAULT_MODEL.name,
        metavar="MODEL",
        help=f"{DEFAULT_MODEL.name} (fetched on first use), a .gguf file, or a Hugging Face folder",
    )
    group.add_argument(
        "--served-model-name",
        metavar="NAME",
        help="what clients call it (default: the model's own name)",
    )
    group.add_argument(
        "--max-model-len",
        "--context-length",
        type=values.integer(1),
        metavar="TOKENS",
        help="longest prompt and output together (default: the model's own)",
    )
    group.add_argument("--device", default="cpu", choices=_DEVICES, help="where the model runs")
    group.add_argument(
        "--dtype",
        default="auto",
        choices=_DTYPES,
        help="of weights and KV cache; auto: bfloat16 where it is fast",
    )
    group.add_argument(
        "--threads-per-rank",
        type=values.integer(1),
        metavar="N",
        help="CPU threads of each rank (default: cores / ranks)",
    )
    _add_cache(group, environment)


def _add_cache(group: argparse._ArgumentGroup, environment: Mapping[str, str]) -> None:
    cache = environment.get("XDG_CACHE_HOME") or "~/.cache"
    group.add_argument(
        "--cache-dir",
        type=Path,
        default=Path(cache).expanduser() / "levelhead",
        metavar="DIR",
        help="where fetched models are kept",
    )


def _add_http(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("HTTP")
    group.add_argument("--host", default="127.0.0.1", help="address of the front doors")
    group.add_argument(
        "--port",
        type=values.integer(0, 65_535),
        default=8000,
        metavar="N",
        help="port that all front doors share; 0 takes a free one",
    )
    group.add_argument(
        "--front-doors",
        type=values.integer(1, _MAX_FRONT_DOORS),
        default=1,
        metavar="N",
        help="processes that accept clients",
    )
    _add_keys(group)
    _add_request_limits(group)
    _add_request_log(group)


def _add_request_log(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--request-log",
        type=Path,
        metavar="FILE",
        help="append a line for each answered request: lengths, time and prefix digests, never "
        "text; `levelhead simulate --trace` reads it",
    )


def _add_keys(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--api-key",
        metavar="KEY",
        help="clients must send it as a bearer token. Better set LEVELHEAD_API_KEY: what stands "
        "on a command line, every user of this machine can read in the process list",
    )
    group.add_argument(
        "--admin-api-key",
        metavar="KEY",
        help="the same for /admin (default: the API key). Better set LEVELHEAD_ADMIN_API_KEY, "
        "for the same reason",
    )


def _add_request_limits(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--max-request-bytes",
        type=values.integer(1024),
        default=32 << 20,
        metavar="BYTES",
        help="largest request body",
    )
    group.add_argument(
        "--retry-max-retries",
        type=values.integer(0, _MAX_RETRIES),
        default=2,
        metavar="N",
        help="other groups that get a request whose group was lost or refused it",
    )
    group.add_argument(
        "--drain-timeout-s",
        type=values.seconds(0),
        default=30.0,
        metavar="S",
        help="time that running requests get when a front door or a group stops",
    )
    group.add_argument(
        "--watchdog-timeout",
        type=values.seconds(1),
        default=300.0,
        metavar="S",
        dest="watchdog_timeout_s",
        help="a group that holds requests and has finished no step for so long is started again",
    )


def _add_limits(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("limits of each DP group")
    group.add_argument(
        "--max-running-requests",
        "--max-num-seqs",
        type=values.integer(1),
        default=64,
        metavar="N",
        help="requests in a batch",
    )
    group.add_argument(
        "--max-queued-requests",
        type=values.integer(0),
        default=256,
        metavar="N",
        help="requests that wait beside a full batch",
    )
    _add_token_limits(group)
    _add_order(group)


def _add_token_limits(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--max-total-tokens",
        type=values.integer(1),
        default=32_768,
        metavar="TOKENS",
        help="tokens that the KV cache holds",
    )
    group.add_argument(
        "--chunked-prefill-size",
        "--max-num-batched-tokens",
        type=values.integer(1),
        default=256,
        metavar="TOKENS",
        help="tokens that one step computes at most",
    )
    group.add_argument(
        "--page-size",
        "--block-size",
        type=values.integer(1),
        default=16,
        metavar="TOKENS",
        help="tokens in a KV page",
    )


def _add_order(group: argparse._ArgumentGroup) -> None:
    policies, first = ("lpm", "fcfs"), "who goes first: the longest cached prefix, or by arrival"
    group.add_argument("--schedule-policy", default="lpm", choices=policies, help=first)
    group.add_argument("--disable-radix-cache", action="store_true", help="keep no prefix")
    overlap = "prepare no step while another is computed; on a CPU none is anyway"
    group.add_argument("--disable-overlap-schedule", action="store_true", help=overlap)
    graph = "on a GPU, launch each operation of a decode batch anew"
    group.add_argument("--disable-cuda-graph", action="store_true", help=graph)
    most, largest = values.integer(1), "requests of the largest decode batch that is recorded"
    group.add_argument("--cuda-graph-max-bs", type=most, metavar="N", help=largest)


def _add_instance(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("instance")
    group.add_argument(
        "--instance",
        type=values.instance,
        metavar="NAME",
        help="names its segments and folder (default: after the port)",
    )
    group.add_argument(
        "--seed",
        type=values.integer(0),
        default=0,
        metavar="N",
        help="of sampling and of chance in methods",
    )
    group.add_argument(
        "--log-level", default="info", choices=LOG_LEVELS, help="least severe message to log"
    )
