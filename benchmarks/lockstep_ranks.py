"""
Ranks of a real model in lock step, for a benchmark: processes, gloo, sharded weights, no HTTP.

`run_ranks` starts them, calls the same function in each, and returns what each returned.  Ranks
that the function drives alike need no other way to agree: every step is a collective.
"""

from __future__ import annotations

import multiprocessing
import socket
import sys
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from router.model_source import locate
from workers.lockstep.meeting import make_group
from workers.model.checkpoint import open_checkpoint
from workers.model.llama import LlamaModel
from workers.model.shard import Shard
from workers.ranks.links import choose_interface
from workers.ranks.rank_group import RankGroup

_CACHE_DIR = Path("~/.cache/levelhead").expanduser()
_HOST = "127.0.0.1"
_LIMIT_S = 600.0


class Seat(NamedTuple):
    """One rank, its shard loaded, connected with the others."""

    rank: int
    size: int
    group: RankGroup
    model: LlamaModel


class Weights(NamedTuple):
    """What ranks load.  threads: of each rank's forward pass."""

    model: Path
    dtype: str
    threads: int

    @classmethod
    def named(cls, model: str, dtype: str, threads: int) -> Weights:
        """Of a folder, a file, or the default model, which is fetched if it is not there."""
        return cls(locate(model, _CACHE_DIR, _say).path, dtype, threads)

    def max_model_len(self) -> int:
        """Return the model's."""
        checkpoint = open_checkpoint(self.model)
        checkpoint.close()
        return checkpoint.config.max_model_len


class NoPauses:
    """For ranks that always have something to compute."""

    def start(self, wake: Callable[[], None]) -> None:
        """Nobody sleeps."""

    def pause(self) -> None:
        """Nobody sleeps."""

    def ring(self) -> None:
        """Nobody sleeps."""


def run_ranks(size: int, weights: Weights, main: Callable[..., Any], *args: Any) -> list[Any]:
    """Call main(seat, *args) in each of so many ranks; RuntimeError if one of them fails."""
    with socket.create_server((_HOST, 0)) as free:
        port = free.getsockname()[1]
    context = multiprocessing.get_context("spawn")
    pipes, processes = [], []
    for rank in range(size):
        receiving, sending = context.Pipe(duplex=False)
        process = context.Process(
            target=_serve, args=(rank, size, port, weights, sending, main, args), daemon=True
        )
        process.start()
        sending.close()
        pipes.append(receiving)
        processes.append(process)
    try:
        return [_result(rank, pipe) for rank, pipe in enumerate(pipes)]
    finally:
        for process in processes:
            process.join(timeout=5)
            process.kill()
            process.join()


def _say(what: str) -> None:
    print(what, file=sys.stderr)


def _result(rank: int, pipe: Connection) -> Any:
    try:
        return pipe.recv()
    except EOFError as error:
        raise RuntimeError(f"rank {rank} has failed; see what it wrote") from error


def _serve(
    rank: int,
    size: int,
    port: int,
    weights: Weights,
    results: Connection,
    main: Callable[..., Any],
    args: tuple[Any, ...],
) -> None:
    torch.set_num_threads(weights.threads)
    checkpoint = open_checkpoint(weights.model)
    dtype = getattr(torch, weights.dtype)
    model = LlamaModel(checkpoint.config, torch.device("cpu"), dtype, Shard(rank, size))
    model.load(checkpoint)
    checkpoint.close()
    choose_interface(_HOST)
    store = TCPStore(_HOST, port, size, rank == 0, timeout=timedelta(seconds=_LIMIT_S))
    group = make_group(store, rank, size, _LIMIT_S)
    results.send(main(Seat(rank, size, group, model), *args))
