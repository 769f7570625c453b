"""
What torchrun tells the ranks that it starts, and what it does not do for them.

    RANK, WORLD_SIZE     which of the ranks this is: --dp-rank and --tp-rank where they are left out
    LOCAL_WORLD_SIZE     how many of them are on this host: all, or they could not meet

The ranks need no more of it: they meet by the run folder, whoever has started them.
"""

from __future__ import annotations

import ctypes
import signal
import sys
from collections.abc import Mapping
from typing import Any

from workers.errors import InvalidConfig

_AGENT = "TORCHELASTIC_RUN_ID"
_PR_SET_PDEATHSIG = 1


def place(given: Mapping[str, Any], environment: Mapping[str, str]) -> dict[str, int]:
    """
    The flags that say which rank this is, if --dp-rank is not among those given.

    Raises InvalidConfig if nobody says, or if there are not as many ranks as the flags have.
    """
    if "dp_rank" in given:
        return {}
    if "RANK" not in environment:
        raise InvalidConfig("--dp-rank is missing; only ranks that torchrun starts do without it")
    together = given["enable_dp_attention"]
    flag, size = ("--tp-size", given["tp_size"]) if together else ("--dp-size", given["dp_size"])
    _check(environment, "WORLD_SIZE", flag, size)
    _check(environment, "LOCAL_WORLD_SIZE", flag, size)
    rank = _number(environment, "RANK")
    if rank >= size:
        raise InvalidConfig(f"RANK is {rank}; with {flag} {size} it must be in [0, {size - 1}]")
    if not together:
        return {"dp_rank": rank}
    if given["tp_rank"] is not None:
        raise InvalidConfig(f"--tp-rank is {given['tp_rank']}, and --dp-rank is left out: leave "
                            "out both, or neither")  # fmt: skip
    return {"tp_rank": rank, "dp_rank": rank * given["dp_size"] // size}


def end_with_agent(environment: Mapping[str, str]) -> None:
    """
    Have the kernel end this process when torchrun's agent has ended, if that started it.

    An agent that is killed leaves its ranks behind, and nobody else knows of them.  On Linux only.
    """
    if _AGENT in environment and sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _check(environment: Mapping[str, str], name: str, flag: str, size: int) -> None:
    told = _number(environment, name)
    if told != size:
        raise InvalidConfig(
            f"{name} is {told}; {flag} is {size}, so torchrun has to start {size} ranks, all on "
            f"this host: --nproc-per-node {size}"
        )


def _number(environment: Mapping[str, str], name: str) -> int:
    text = environment.get(name, "")
    if not text.isdecimal():
        raise InvalidConfig(f"{name} is {text!r}; torchrun sets it to an integer, 0 or more")
    return int(text)
