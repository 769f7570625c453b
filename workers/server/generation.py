"""
The two endpoints that generate: a body in, an answer or an event stream out.

The status is sent with the first output, so whatever the engine refuses gets
the status that fits.  One step's outputs for a request are one write.  While an
answer is made, a task of its own waits for the client to hang up, so that the
engine hears of it at once, streaming or not.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from starlette.types import Receive, Scope, Send

from workers.engine.request import Output, Request
from workers.errors import WorkerError
from workers.model.errors import ModelError
from workers.server.answers import Answer, Piece, Usage
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
)


class Job(NamedTuple):
    """A request for the engine, and how its answer is to look."""

    request: Request
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
            stream = self._client.submit(job.request, scope.get(CHARGE))
        except ClientGone:
            return
        except ApiError as error:
            return await send_error(send, error)
        except (WorkerError, ModelError) as error:
            return await send_error(send, from_error(error))
        watcher = asyncio.create_task(_watch(receive, stream))
        try:
            await _answer(job, stream, send)
        except ClientGone:
            return
        finally:
            watcher.cancel()
            stream.close()


async def _watch(receive: Receive, stream: Stream) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    stream.disconnect()


async def _answer(job: Job, stream: Stream, send: Send) -> None:
    outputs = await stream.next()
    if outputs[0].error is not None:
        await send_error(send, from_error(outputs[0].error))
    elif job.is_stream:
        await _send_stream(job, outputs, stream, send)
    else:
        while not outputs[-1].is_last:
            outputs += await stream.next()
        await _send_whole(job, outputs, send)


async def _send_whole(job: Job, outputs: list[Output], send: Send) -> None:
    error = outputs[-1].error
    if error is not None:
        await send_error(send, from_error(error))
    else:
        piece, num_outputs = _piece(job, outputs), _num_outputs(outputs)
        usage = Usage(job.request.num_prompt, outputs[-1].num_cached, num_outputs)
        await send_json(send, job.answer.whole(piece, usage))


async def _send_stream(job: Job, outputs: list[Output], stream: Stream, send: Send) -> None:
    opening = job.answer.opening()
    data = b"" if opening is None else _chunk_event(job, opening)
    num_outputs = 0
    await start_events(send)
    while True:
        num_outputs += _num_outputs(outputs)
        data += b"".join(_event(job, output) for output in outputs)
        last = outputs[-1]
        if last.is_last:
            usage = Usage(job.request.num_prompt, last.num_cached, num_outputs)
            if job.wants_usage_chunk and last.error is None:
                data += event(job.answer.usage_chunk(usage))
            return await send_events(send, data + DONE, is_last=True)
        if data:
            await send_events(send, data, is_last=False)
        data = b""
        outputs = await stream.next()


def _event(job: Job, output: Output) -> bytes:
    """Return what an output adds to a stream: nothing while its text is not certain."""
    if output.error is not None:
        return event(from_error(output.error).body)
    if not (output.text or output.logprobs or output.is_last):
        return b""
    return _chunk_event(job, job.answer.chunk(_piece(job, [output])))


def _chunk_event(job: Job, chunk: dict[str, Any]) -> bytes:
    """Return a chunk's event: if the last one tells usage, the others have it as null."""
    return event(chunk | {"usage": None} if job.wants_usage_chunk else chunk)


def _piece(job: Job, outputs: list[Output]) -> Piece:
    logprobs = None
    if job.request.params.logprobs is not None:
        logprobs = [output.logprobs for output in outputs if output.logprobs is not None]
    text = "".join(output.text for output in outputs)
    return Piece(text, logprobs, outputs[-1].finish_reason)


def _num_outputs(outputs: list[Output]) -> int:
    return sum(output.token_id is not None for output in outputs)
