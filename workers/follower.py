"""
Runs a rank that follows: it has some heads of a DP group, and neither scheduler nor server.

It ends when the leaders do.  A signal is only remembered: whoever stops an instance tells all
its ranks, and the leaders need this one's heads for what they still answer.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable

import torch

from workers.config import WorkerConfig
from workers.errors import RankLost
from workers.loading import load_follower
from workers.server.serving import SignalMemory

logger = logging.getLogger("levelhead.workers")


def run(config: WorkerConfig, on_loaded: Callable[[], None]) -> None:
    """
    Compute until all ranks leave.  Signals are the caller's until on_loaded.

    Raises InvalidConfig or ModelError for what cannot work, SetBroken if a rank is gone that
    was not told to go.
    """
    torch.set_num_threads(1)
    follower = load_follower(config)
    gc.collect()
    gc.freeze()
    signals = SignalMemory()
    on_loaded()
    ranks = config.parallelism
    logger.info("ready: rank %d follows in group %d", ranks.tp_rank, ranks.dp_rank)
    follow(follower.run, lambda: signals.num_heard > 0)
    logger.info("stopped: rank %d", ranks.tp_rank)


def follow(until_all_leave: Callable[[], None], is_told_to_end: Callable[[], bool]) -> None:
    """Raises RankLost, unless this rank was told to end too and is only the last to do so."""
    try:
        until_all_leave()
    except RankLost:
        if not is_told_to_end():
            raise
