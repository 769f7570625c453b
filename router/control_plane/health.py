"""
Asks a group's leader for its health.

What could not be asked for a reason of ours (no free connection, no descriptor, no
memory) is no evidence: else a control plane that is short of something would
declare every group dead.
"""

from __future__ import annotations

import logging
from enum import Enum

import httpx

from router.shortage import is_shortage
from shm.group_table import GroupEntry

_log = logging.getLogger("levelhead.control_plane")
_TIMEOUT_S = 5.0  # a step that keeps a leader's event loop waiting is no death


class Health(Enum):
    """What came of one probe."""

    WELL = "well"
    UNWELL = "unwell"
    """It answered so, or not at all."""
    REFUSING = "refusing"
    """A backend answered that it is not well: it is there, and may go on with what it has."""
    SILENT = "silent"
    """No answer came in time from a backend, which took the question."""
    UNKNOWN = "unknown"
    """It could not be asked."""


class HealthProbe:
    """Asks over one client; tells once when it cannot ask, until it can again."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        """`client` is for this alone: see router.backends.engine_client."""
        self._client = client
        self._is_short = False

    async def ask(self, entry: GroupEntry) -> Health:
        """`GET /health` at the group's address."""
        try:
            answer = await self._client.get(
                f"http://{entry.host}:{entry.port}/health", timeout=_TIMEOUT_S
            )
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            if not (isinstance(error, httpx.PoolTimeout) or is_shortage(error)):
                return Health.UNWELL
            if not self._is_short:
                self._is_short = True
                _log.warning("groups cannot be asked for their health: %r", error)
            return Health.UNKNOWN
        self._is_short = False
        return Health.WELL if answer.status_code == httpx.codes.OK else Health.UNWELL
