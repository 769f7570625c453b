"""
Asks an engine that is not ours for its health, at the path that its kind has for that.

    kind                       asked         well is
    vllm, sglang, llamacpp     /health       200
    levelhead                  /ready        200
    openai                     /v1/models    anything below 500: it may want a key

Any other answer is refusing; no connection, or one that breaks, is unwell.
"""

from __future__ import annotations

import asyncio

import httpx

from router.backends.backend import Kind, url_of
from router.control_plane.health import Health
from router.shortage import is_shortage
from shm.group_table import GroupEntry

_TIMEOUT_S = 5.0  # of each step: a connection of the client, one to the engine, each read
_LIMIT_S = 3 * _TIMEOUT_S  # of all together: an answer that drips would never be another one
_PATHS = {Kind.LEVELHEAD: "/ready", Kind.OPENAI: "/v1/models"}
_USUAL_PATH = "/health"


class BackendProbe:
    """Asks over one client."""

    def __init__(self, client: httpx.AsyncClient, limit_s: float = _LIMIT_S) -> None:
        """`client` is for probes alone: see router.backends.engine_client."""
        self._client = client
        self._limit_s = limit_s

    async def ask(self, entry: GroupEntry) -> Health:
        """Of any group of that engine: its health is that of the server."""
        kind = Kind(entry.engine)
        url = url_of(entry.host, entry.port, entry.tls) + _PATHS.get(kind, _USUAL_PATH)
        try:
            async with asyncio.timeout(self._limit_s):
                answer = await self._client.get(url, timeout=_TIMEOUT_S)
        except (httpx.ReadTimeout, TimeoutError):
            return Health.SILENT
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            is_ours = isinstance(error, httpx.PoolTimeout) or is_shortage(error)
            return Health.UNKNOWN if is_ours else Health.UNWELL
        if kind is Kind.OPENAI:
            is_well = answer.status_code < httpx.codes.INTERNAL_SERVER_ERROR
        else:
            is_well = answer.status_code == httpx.codes.OK
        return Health.WELL if is_well else Health.REFUSING
