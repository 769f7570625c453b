"""
How many files and sockets a process may have open.

The soft limit is often 1024, kept low for programs that use select(); nobody here
does, and a front door needs two descriptors for each client that it serves.
Children inherit what the root has set.
"""

from __future__ import annotations

import resource


def raise_descriptor_limit() -> int:
    """Raise this process's soft limit to the hard one; return the limit that holds now."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError):  # macOS: the kernel allows less than the hard limit says
        return soft
    return hard
