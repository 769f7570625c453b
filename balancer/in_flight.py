"""What front doors have on the way to one group: the sum of the ledger's law."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

from shm.board import Cell
from shm.load import Accepted, LoadReport

_NOTHING = Accepted(
    0, 0, 0, 0, 0
)  # what a group has accepted from a front door that it does not know


class InFlight(NamedTuple):
    """Charges on their way to one group."""

    tokens: int
    requests: int


# From one tuple: InFlight(...) does the same with a Python frame, for every group of a snapshot.
IN_FLIGHT = partial(tuple.__new__, InFlight)


def in_flight(epoch: int, report: LoadReport | None, cells: Sequence[Cell]) -> InFlight:
    """
    Sum dispatched - returned - accepted over the front doors, for a group in that epoch.

    `report` is the group's newest of that epoch, or None; `cells` are what the
    front doors noted for it, by slot.
    """
    tokens = requests = 0
    accepted = () if report is None else report.accepted
    accepted += (_NOTHING,) * (len(cells) - len(accepted))
    for cell, (accepted_epoch, taken, num_taken, _, _) in zip(cells, accepted, strict=False):
        front_door_epoch, group_epoch, sent, num_sent, returned, num_returned, _, _ = cell
        if group_epoch != epoch:
            continue
        tokens += sent - returned
        requests += num_sent - num_returned
        if accepted_epoch == front_door_epoch:
            tokens -= taken
            requests -= num_taken
    return IN_FLIGHT((tokens, requests))
