"""
Tells the control plane of the last decisions, at a Unix socket of the front door.

    asked    one line of JSON: [limit, dp_rank or null, dp_balance_id or null]
    told     one JSON object: who tells, its method, and the facts

Facts go as they are, and the control plane makes text of them: so an operator who asks for a
thousand costs requests a few milliseconds here, and not the tenths of a second of explaining them.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress

import orjson

from router.front_door.decision_log import DecisionLog, Wanted

_TIMEOUT_S = 2.0


class DecisionTeller:
    """Answers whoever connects, and hangs up on who takes longer than `timeout_s`."""

    def __init__(
        self, log: DecisionLog, slot: int, method: str, timeout_s: float = _TIMEOUT_S
    ) -> None:
        self._log = log
        self._timeout_s = timeout_s
        self._who = {"front_door": slot, "method": method}

    async def tell(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One question, one answer; whoever asks nothing in time is told nothing."""
        with suppress(OSError, ValueError, TypeError):  # who asks so is none of ours, or has left
            try:
                async with asyncio.timeout(self._timeout_s):
                    wanted = Wanted(*orjson.loads(await reader.readline()))
                    writer.write(self._told(wanted))
                    await writer.drain()
            except TimeoutError:
                writer.transport.abort()  # else what it does not read would be kept for ever
            finally:
                writer.close()
                await writer.wait_closed()

    def _told(self, wanted: Wanted) -> bytes:
        told = self._who | {"entries": self._log.found(wanted)}
        return orjson.dumps(told, default=list)  # of tuples with names
