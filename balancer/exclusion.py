"""Why a request may not go to a group that could take it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from enum import Enum


class Exclusion(Enum):
    """Of one group, for one request."""

    TRIED = "tried"
    """It was there before."""
    SAME_ENGINE = "same_engine"
    """It was at another rank of the same engine before, and left that."""
    OTHER_MODEL = "other_model"
    OTHER_RANK = "other_rank"
    """Its body names another rank of the engine."""
    BREAKER_OPEN = "breaker_open"
    NO_ROOM = "no_room"
    """It would have to wait there, and waits in the front door instead."""
    EXCLUDED = "excluded"
    """Nobody said why."""


Exclusions = Mapping[int, Exclusion]
"""Groups that a request may not go to, by dp_rank, each with the reason."""


def because(groups: Collection[int], why: Exclusion) -> dict[int, Exclusion]:
    """These groups, all for that reason."""
    return dict.fromkeys(groups, why)


def reasons(excluded: Collection[int]) -> dict[int, Exclusion]:
    """Each with its reason; `excluded` says it if it is a mapping."""
    if isinstance(excluded, Mapping):
        return dict(excluded)
    return because(excluded, Exclusion.EXCLUDED)
