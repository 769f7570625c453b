"""The flags of bench_balance; --quick has values of its own for some, and cannot be with those."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from router.simulate.flag_values import STEP, step_time

METHODS = "auto,min_step_cost,minimum_tokens,least_requests,round_robin,total_tokens,vllm_score"
_DEFAULTS: dict[str, Any] = {
    "trace": None,
    "dp_size": "4,8",
    "methods": METHODS,
    "load": 0.7,
    "seeds": 1,
    "max_requests": 1000,
    "kv_capacity_tokens": 800_000,
    "step_cost": step_time(STEP),
    "time_scale": 4.0,
    "report_delay_steps": 0,
    "rate": 2.0,
    "prompt_parts": 64,
    "output_parts": 1,
    **dict.fromkeys(("quick", "real", "pin", "unified"), False),
}
_QUICK: dict[str, Any] = {
    "dp_size": "4",
    "methods": "auto,round_robin",
    "max_requests": 180,
    "kv_capacity_tokens": 60_000,
    "step_cost": step_time("25,4e-4,0.5,0"),  # with few tokens, that matter as many do by default
    "time_scale": 1.0,
}


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the flags' values; ends the process if they are no good."""
    parser = _parser()
    given = vars(parser.parse_args(arguments))
    own = _QUICK if "quick" in given else {}
    if both := sorted(set(given) & set(own)):
        flags = ", ".join("--" + name.replace("_", "-") for name in both)
        parser.error(f"--quick has values of its own for {flags}: leave out one or the other")
    return argparse.Namespace(**(_DEFAULTS | own | given))


def _parser() -> argparse.ArgumentParser:
    """Without defaults: what was not given is not there."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.bench_balance", argument_default=argparse.SUPPRESS
    )
    add = parser.add_argument

    def with_default(flag: str, text: str = "", **how: Any) -> None:
        default = _DEFAULTS[flag.removeprefix("--").replace("-", "_")]
        add(flag, help=f"{text} (default: {default})".strip(), **how)

    add("--quick", action="store_true", help="two methods, 4 groups, about a minute")
    add("--trace", action="append", metavar="FILE", help="as of `levelhead simulate`")
    with_default("--dp-size")
    with_default("--methods")
    with_default("--load", type=float)
    with_default("--seeds", type=int)
    with_default("--max-requests", "of each trace", type=int)
    with_default("--kv-capacity-tokens", "of each group", type=int)
    add("--step-cost", type=step_time, metavar="BASE,A,B,C", help=f"ms (default: {STEP})")
    with_default("--time-scale", "times the step cost", type=float)
    with_default("--report-delay-steps", "of the simulator", type=int)
    add("--real", action="store_true", help="torch workers, 2 groups, each at its own pace")
    with_default("--rate", "requests a second with --real", type=float)
    with_default("--prompt-parts", "prompts so much shorter, with --real", type=int)
    with_default("--output-parts", "answers so much shorter, with --real", type=int)
    add("--pin", action="store_true", help="round_robin by the clients, in the trace's order")
    add("--unified", action="store_true", help="groups compute prompts")
    return parser
