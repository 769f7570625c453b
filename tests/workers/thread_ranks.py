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
WAIT_NS = 7
"""That each collective is said to take."""


class ThreadRanks:
    """The collectives of each rank."""

    def __init__(self, size):
        self.size = size
        self.board = [None] * size
        self.barrier = threading.Barrier(size)
        self.num_collectives = 0
        self.groups = []

    def run(self, main):
        """Call main(collectives) for all ranks at the same time; return what they return."""

        def guarded(collectives):
            torch.set_num_threads(1)
            try:
                return main(collectives)
            except BaseException:
                for ranks in (self, *self.groups):
                    ranks.barrier.abort()
                raise

        with ThreadPoolExecutor(self.size) as threads:
            ranks = [ThreadCollectives(self, rank) for rank in range(self.size)]
            futures = [threads.submit(guarded, rank) for rank in ranks]
        errors = [error for future in futures if (error := future.exception())]
        for error in sorted(errors, key=lambda error: isinstance(error, RankLost)):
            raise error
        return [future.result() for future in futures]

    def run_in_groups(self, num_groups, main):
        """As run, with main(collectives of all, collectives of the DP group)."""
        each = self.size // num_groups
        self.groups = [ThreadRanks(each) for _ in range(num_groups)]

        def grouped(collectives):
            number, rank = divmod(collectives.rank, each)
            return main(collectives, ThreadCollectives(self.groups[number], rank))

        return self.run(grouped)


class ThreadCollectives:
    """One rank's."""

    def __init__(self, ranks, rank):
        self._ranks = ranks
        self.rank = rank
        self.size = ranks.size
        self.waited_ns = 0

    def all_gather(self, gathered, own):
        gathered.copy_(torch.cat(self._all(own)).view(gathered.shape))

    def all_reduce(self, summand):
        summand.copy_(sum(self._all(summand)))

    def broadcast(self, values):
        values.copy_(self._all(values)[0])

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
        self.waited_ns += WAIT_NS
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
    """What a rank reports, and the rows of all in each gather."""

    def __init__(self, own=None):
        self.own = own
        self.noted = []

    def note(self, rows):
        self.noted.append(list(rows))
