"""
Garbage collection in a process that must answer in microseconds.

Requests make many short-lived objects and hardly a cycle; reference counting
frees them.  The collector's default is to look after every 700 objects that are
left over, which a thousand load reports in one snapshot already are.
"""

from __future__ import annotations

import gc

_THRESHOLDS = (50_000, 20, 20)


def calm_garbage_collection() -> None:
    """Call when start-up is over: what is there now is never looked at again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_THRESHOLDS)
