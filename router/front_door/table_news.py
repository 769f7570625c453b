"""
What two group tables that follow each other say: which lives of groups are over, and who is back.

A worker of ours that has a later epoch has begun a new life: the one before answers nothing any
more.  A slot of a backend that has a later epoch has been given to somebody else, and whoever
had it before may well go on: what it has under way is left to it, as it is where the
slot stands empty.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from router.front_door.upstream import Address
from shm.group_table import GroupEntry, GroupState

_WELL = (GroupState.READY, GroupState.DRAINING, GroupState.RELEASED)


class Gone(NamedTuple):
    """A life of a group that is over, or taken to be."""

    dp_rank: int
    address: Address
    why: str
    is_expected: bool
    """It was draining, or known to be dead."""


def ended(before: Mapping[int, GroupEntry], now: Iterable[GroupEntry]) -> list[Gone]:
    """Whose requests will have no answer."""
    over = []
    for entry in now:
        known = before.get(entry.dp_rank)
        if known is None:
            continue
        address = Address.of(known)
        is_expected = known.state in (GroupState.DRAINING, GroupState.DEAD)
        if entry.epoch > known.epoch and not known.is_backend:
            why = "it has begun a new life"
        elif entry.epoch == known.epoch and _has_died(known.state, entry.state):
            why = "it was found dead"
        else:
            continue
        over.append(Gone(entry.dp_rank, address, why, is_expected))
    return over


def back(before: Mapping[int, GroupEntry], now: Iterable[GroupEntry]) -> set[Address]:
    """
    Where those are that were found dead, too soon: the same life of them answers well.

    So does one that drains again, because it leaves: what it has under way is still its own.
    """
    dead = {
        (dp_rank, known.epoch, Address.of(known))
        for dp_rank, known in before.items()
        if known.state is GroupState.DEAD
    }
    well = [entry for entry in now if entry.state in _WELL]
    return {
        Address.of(entry)
        for entry in well
        if (entry.dp_rank, entry.epoch, Address.of(entry)) in dead
    }


def freed(before: Mapping[int, GroupEntry], now: Mapping[int, GroupEntry]) -> list[int]:
    """Slots whose group is no more: empty, or those of backends that somebody else has got."""
    return [
        dp_rank
        for dp_rank, known in before.items()
        if dp_rank not in now or (known.is_backend and now[dp_rank].epoch > known.epoch)
    ]


def _has_died(before: GroupState, now: GroupState) -> bool:
    return now is GroupState.DEAD and before is not GroupState.DEAD
