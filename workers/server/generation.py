"""
The endpoints that generate: a body in, an answer or an event stream out.

The status is sent with the first output, so whatever the engine refuses gets
the status that fits.  One step's outputs for a job are one write.  The choices of a
job are requests of their own; if the engine refuses one of them, all end.  While an
answer is made, a task of its own waits for the client to hang up, so that the
engine hears of it at once, streaming or not.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from starlette.types import Receive, Scope, Send

from workers.engine.request import Output, Request
from workers.errors import RequestRefused, WorkerError
from workers.model.errors import ModelError
from workers.server.answers import Answer
from workers.server.charge import CHARGE
from workers.server.client import EngineClient, Stream
from workers.server.drain import Drain
from workers.server.errors import ApiError, ClientGone, from_error
from workers.server.sending import (
    DONE,
    event,
    read_body,
    send_error,
    send_events,
    send_json,
    start_events,
    watch,
)
from workers.server.tally import Tally


class Job(NamedTuple):
    """
    Requests for the engine, one for each choice, and how their answer is to look.

    num_copies: of each prompt, side by side.
    """

    requests: tuple[Request, ...]
    num_copies: int
    answer: Answer
    is_stream: bool
    wants_usage_chunk: bool


class Generation:
    """
    ASGI app of one endpoint.

    prepare: reads a body; raises ApiError.  max_body_bytes: more of it is not read.
    drain: is told of each request.
    """

    def __init__(
        self,
        client: EngineClient,
        prepare: Callable[[bytes], Awaitable[Job]],
        max_body_bytes: int,
        drain: Drain,
    ) -> None:
        self._client = client
        self._prepare = prepare
        self._max_body_bytes = max_body_bytes
        self._drain = drain

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        with self._drain.request():
            await self._serve(scope, receive, send)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            job = await self._prepare(await read_body(receive, self._max_body_bytes))
            stream = self._client.submit(job.requests, scope.get(CHARGE))
        except ClientGone:
            return
        except ApiError as error:
            return await send_error(send, error)
        except (WorkerError, ModelError) as error:
            return await send_error(send, from_error(error))
        watcher = asyncio.create_task(watch(receive, stream.disconnect))
        try:
            await _answer(job, stream, send)
        except ClientGone:
            return
        finally:
            watcher.cancel()
            stream.close()


async def _answer(job: Job, stream: Stream, send: Send) -> None:
    tally = Tally(job.requests, job.num_copies)
    outputs = await stream.next()
    refused = next((output.error for output in outputs if output.error is not None), None)
    if refused is not None:
        await send_error(send, from_error(refused))
    elif job.is_stream:
        await _send_stream(job, tally, outputs, stream, send)
    else:
        await _send_whole(job, tally, outputs, stream, send)


async def _send_whole(
    job: Job, tally: Tally, outputs: list[Output], stream: Stream, send: Send
) -> None:
    while True:
        for output in outputs:
            tally.add(output)
        if tally.is_over:
            break
        outputs = await stream.next()
    if tally.error is not None:
        await send_error(send, from_error(tally.error))
    else:
        await send_json(send, job.answer.whole(tally.pieces(), tally.usage))


async def _send_stream(
    job: Job, tally: Tally, outputs: list[Output], stream: Stream, send: Send
) -> None:
    data = b"".join(_chunk_event(job, chunk) for chunk in job.answer.opening(len(job.requests)))
    await start_events(send)
    while True:
        data += b"".join(_event(job, tally, output) for output in outputs)
        if tally.error is not None:
            return await send_events(send, data + _error_event(tally.error), is_last=True)
        if tally.is_over:
            if job.wants_usage_chunk:
                data += event(job.answer.usage_chunk(tally.usage))
            return await send_events(send, data + DONE, is_last=True)
        if data:
            await send_events(send, data, is_last=False)
        data = b""
        outputs = await stream.next()


def _event(job: Job, tally: Tally, output: Output) -> bytes:
    """Return what an output adds to a stream: nothing while its text is not certain."""
    index = tally.add(output)
    if output.error is not None or not (output.text or output.logprobs or output.is_last):
        return b""
    return _chunk_event(job, job.answer.chunk(tally.piece(index)))


def _chunk_event(job: Job, chunk: dict[str, Any]) -> bytes:
    """Return a chunk's event: if the last one tells usage, the others have it as null."""
    return event(chunk | {"usage": None} if job.wants_usage_chunk else chunk)


def _error_event(error: RequestRefused) -> bytes:
    return event(from_error(error).body) + DONE
