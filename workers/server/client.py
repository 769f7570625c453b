"""
The event loop's side of the engine: requests in, streams of outputs back.

The step loop delivers the outputs of a whole step in one call, and one
call_soon_threadsafe brings them all over.  Everything else here runs on the
event loop.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from workers.engine.acceptance import Charge, OpenCharge, Ticket
from workers.engine.inbox import Abort, Inbox, Look, Settle, Submit
from workers.engine.request import Output, Request
from workers.errors import Stopping
from workers.server.errors import ClientGone

_Seen = TypeVar("_Seen")


class Stream:
    """
    Outputs of some requests, for the one task that reads them.

    abandon: tells the engine that nobody reads any more what those would say.
    """

    def __init__(self, request_ids: Iterable[int], abandon: Callable[[set[int]], None]) -> None:
        self._abandon = abandon
        self._outputs: list[Output] = []
        self._arrived = asyncio.Event()
        self._open = set(request_ids)
        self._client_gone = False

    def push(self, output: Output) -> None:
        """Add an output."""
        self._outputs.append(output)
        if output.is_last:
            self._open.discard(output.request_id)
        self._arrived.set()

    def disconnect(self) -> None:
        """Wake the reader with the news that its client has gone."""
        self._client_gone = True
        self._arrived.set()

    async def next(self) -> list[Output]:
        """Wait for outputs and return all there are.  Raises ClientGone."""
        await self._arrived.wait()
        self._arrived.clear()
        if self._client_gone:
            raise ClientGone
        outputs, self._outputs = self._outputs, []
        return outputs

    def close(self) -> None:
        """Stop the requests that have not ended; twice does no harm."""
        if self._open:
            left, self._open = self._open, set()
            self._abandon(left)


class EngineClient:
    """Hands requests to the step loop and sorts its outputs into streams."""

    def __init__(self, inbox: Inbox, loop: asyncio.AbstractEventLoop) -> None:
        self._inbox = inbox
        self._loop = loop
        self._streams: dict[int, Stream] = {}
        self._ids = itertools.count(1)

    def next_id(self) -> int:
        """Return a number that no other request has."""
        return next(self._ids)

    def submit(self, requests: Sequence[Request], charge: OpenCharge | None) -> Stream:
        """
        Hand requests over, to be taken in by the same step, and their one charge with the first.

        Raises Stopping, and then the charge stays with the caller.  Whoever gets
        the stream closes it on every exit.
        """
        if self._inbox.is_closed:
            raise Stopping
        if charge is not None:
            ticket = Ticket(charge.take(), len(requests))
            for request in requests:
                request.ticket = ticket
        stream = Stream((request.request_id for request in requests), self._abandon)
        self._streams |= {request.request_id: stream for request in requests}
        self._inbox.put(*map(Submit, requests))
        return stream

    def settle(self, charge: Charge) -> None:
        """
        Count a charge whose request never comes.

        When the worker is stopping there is no report left to count it in: the
        group's epoch ends, and the charge with it.
        """
        if not self._inbox.is_closed:
            self._inbox.put(Settle(charge))

    def look(self, see: Callable[[], _Seen], tell: Callable[[_Seen], None]) -> None:
        """
        Have the step loop see something that it alone may touch; tell is told, here.

        Raises Stopping.
        """

        def take() -> None:
            seen = see()
            if not self._loop.is_closed():
                self._loop.call_soon_threadsafe(tell, seen)

        self._inbox.put(Look(take))

    def deliver(self, outputs: Sequence[Output]) -> None:
        """Bring a step's outputs over.  Called by the step loop, in its thread."""
        if outputs and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._sort, outputs)

    def _sort(self, outputs: Sequence[Output]) -> None:
        for output in outputs:
            stream = self._streams.get(output.request_id)
            if stream is None:
                continue  # abandoned while the step was computed
            if output.is_last:
                del self._streams[output.request_id]
            stream.push(output)

    def _abandon(self, request_ids: set[int]) -> None:
        for request_id in request_ids:
            self._streams.pop(request_id, None)
        if not self._inbox.is_closed:
            self._inbox.put(*map(Abort, sorted(request_ids)))
