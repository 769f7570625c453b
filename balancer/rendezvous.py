"""
Rendezvous hashing: which of some groups a key belongs to.

Each pair of key and group has a number of its own, and the highest wins.  So a group that
goes takes only its own keys elsewhere, and one that comes takes only those that are its own.
"""

from __future__ import annotations

from collections.abc import Iterable

_MASK = (1 << 64) - 1
# Odd constants and shifts of splitmix64 (Steele, Lea, Flood 2014).
_STEP, _FIRST, _SECOND = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


def home(ranks: Iterable[int], key: int) -> int:
    """Return the rank, one of these, to which the key of 64 bits belongs."""
    return max(ranks, key=lambda rank: _mixed(key + (rank + 1) * _STEP))


def _mixed(value: int) -> int:
    value &= _MASK
    value = (value ^ value >> 30) * _FIRST & _MASK
    value = (value ^ value >> 27) * _SECOND & _MASK
    return value ^ value >> 31
