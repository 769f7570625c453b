"""
Tells a shortage of this machine from a fault of whom was asked.

Who has no descriptor left for a socket learns nothing of the process at its other
end, so no process may be taken for dead on that evidence.
"""

from __future__ import annotations

import errno

_SHORTAGES = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))


def is_shortage(error: BaseException) -> bool:
    """Whether that error, or one that caused it, is for want of descriptors or memory here."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in _SHORTAGES:
            return True
        cause = cause.__cause__ or cause.__context__
    return False
