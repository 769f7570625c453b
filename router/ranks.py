"""
The ranks of an instance, as the root starts and keeps them.

    --launcher     --enable-dp-attention     what is kept
    processes      no                        each rank for itself
    processes      yes                       a set of ranks (router.rank_set)
    torchrun       no or yes                 torchrun, of which the ranks are children

torchrun starts nothing again: that is the root's, with the same pauses as ever.  Ranks of one
torchrun end together whether they compute together or not, because it does not start one alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from router import commands, question
from router.card import CardReader
from router.child import Child
from router.instance import Instance
from router.options import ServeOptions
from router.parallel_flags import Launcher
from router.rank_set import RankSet
from router.torchrun import Torchrun
from router.unit import Unit
from router.upkeep import Kept


class Ranks:
    """Makes what is kept of them; owns none of it."""

    def __init__(
        self,
        instance: Instance,
        options: ServeOptions,
        model_path: Path,
        environment: Mapping[str, str],
        clock_s: Callable[[], float],
    ) -> None:
        """`environment`: of this process."""
        self._instance = instance
        self._options = options
        self._model_path = model_path
        self._environment = commands.worker_environment(instance, options, environment)
        self._cards = CardReader(instance)
        self._clock_s = clock_s

    def kept(self) -> Sequence[Kept]:
        """Everything that is to run."""
        if self._options.launcher is Launcher.TORCHRUN:
            return [self._torchrun()]
        units = [self._rank(rank) for rank in range(self._options.num_ranks)]
        if self._options.enable_dp_attention:
            return [RankSet(units, self._clock_s)]
        return units

    def _rank(self, rank: int) -> Unit:
        command = commands.worker(self._instance, self._options, self._model_path, rank)
        return self._unit(f"rank {rank}", Child, command, self._question(rank))

    def _question(self, rank: int) -> question.Question:
        dp_rank, number = divmod(rank, self._options.num_ranks // self._options.dp_size)
        if number:
            return question.of_follower()
        return question.of_rank(self._cards, dp_rank, self._instance.drain_timeout_s)

    def _torchrun(self) -> Unit:
        command = commands.torchrun(self._instance, self._options, self._model_path)
        asked = question.of_ranks(
            self._cards, range(self._options.dp_size), self._instance.drain_timeout_s
        )
        return self._unit("torchrun", Torchrun, command, asked)

    def _unit(
        self, name: str, kind: type[Child], command: list[str], asked: question.Question
    ) -> Unit:
        return Unit(
            name,
            partial(kind.start, name, command, self._environment),
            asked,
            self._clock_s,
            self._instance.drain_timeout_s + question.GRACE_S,
        )
