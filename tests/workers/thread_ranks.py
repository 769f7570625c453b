"""
Ranks that compute together as threads of one process, which costs milliseconds.

Their collectives are those of the protocol (workers.model.row_exchange.Collectives), over a
barrier of the standard library.  Whoever raises breaks it for all.
"""

import threading
from concurrent.futures import ThreadPoolExecutor

import torch

from workers.errors import RankLost

LIMIT_S = 60.0


class ThreadRanks:
    """The collectives of each rank."""

    def __init__(self, size):
        self.size = size
        self.board = [None] * size
        self.barrier = threading.Barrier(size)
        self.num_collectives = 0

    def run(self, main):
        """Call main(collectives) for all ranks at the same time; return what they return."""

        def guarded(collectives):
            try:
                return main(collectives)
            except BaseException:
                self.barrier.abort()
                raise

        with ThreadPoolExecutor(self.size) as threads:
            ranks = [ThreadCollectives(self, rank) for rank in range(self.size)]
            futures = [threads.submit(guarded, rank) for rank in ranks]
        errors = [error for future in futures if (error := future.exception())]
        for error in sorted(errors, key=lambda error: isinstance(error, RankLost)):
            raise error
        return [future.result() for future in futures]


class ThreadCollectives:
    """One rank's."""

    def __init__(self, ranks, rank):
        self._ranks = ranks
        self.rank = rank
        self.size = ranks.size

    def all_gather(self, gathered, own):
        gathered.copy_(torch.cat(self._all(own)).view(gathered.shape))

    def all_reduce(self, summand):
        summand.copy_(sum(self._all(summand)))

    def reduce_scatter(self, own, summands):
        parts = [each.view(self.size, *own.shape)[self.rank] for each in self._all(summands)]
        own.copy_(sum(parts))

    def all_to_all(self, received, sent, num_received, num_sent):
        everybody = self._all((sent, list(num_sent)))
        parts = [values.split(counts)[self.rank] for values, counts in everybody]
        assert [len(part) for part in parts] == list(num_received)
        received.copy_(torch.cat(parts))

    def _all(self, own):
        """What all have put on the board, copied before anybody puts something else there."""
        board, barrier = self._ranks.board, self._ranks.barrier
        board[self.rank] = own
        try:
            barrier.wait(LIMIT_S)
            everybody = [_copy(each) for each in board]
            barrier.wait(LIMIT_S)
        except threading.BrokenBarrierError:
            raise RankLost("a rank is gone") from None
        return everybody


def _copy(value):
    return value.clone() if isinstance(value, torch.Tensor) else (value[0].clone(), value[1])


class NoBell:
    """For ranks that never sleep."""

    def __init__(self):
        self.pauses = 0
        self.rings = 0

    def start(self, wake):
        pass

    def pause(self):
        self.pauses += 1

    def ring(self):
        self.rings += 1


class Reported:
    """What a rank reports, and what all reported in each gather."""

    def __init__(self, own=None):
        self.own = own
        self.noted = []

    def note(self, reports):
        self.noted.append(list(reports))
