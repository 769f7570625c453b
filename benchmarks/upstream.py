"""
The mock workers: four OpenAI servers in one process that answer from memory.

They are there to be cheap, not to be right: a POST of a chat completion gets
the answer that `PUT /answer` set last, whatever it asks for, and every GET gets
what the routers in the comparison want to see before they send traffic.

A chunk of a stream is a write of its own, made in a pass of the event loop of
its own, so it reaches the proxy as a segment of its own.

Run as a process: the first line on stdout is the JSON list of its ports.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import asdict
from functools import partial
from typing import cast

import uvloop

from benchmarks.cases import Answer

NUM_WORKERS = 4
_BACKLOG = 1024
_COMPLETION_ID = "chatcmpl-0123456789abcdef01234567"
_MODELS = {"object": "list", "data": [{"id": "bench", "object": "model", "owned_by": "bench"}]}
_FACTS = {"served_model_name": "bench", "is_generation": True}


def pieces(answer: Answer) -> tuple[bytes, ...]:
    """The payload of an answer: one piece for each chunk of a stream, else a single piece."""
    if answer.num_chunks is None:
        message = {"role": "assistant", "content": "a short answer of some eight words or so"}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        usage = {"prompt_tokens": 200, "completion_tokens": 9, "total_tokens": 209}
        return (json.dumps(_completion("chat.completion", choice) | {"usage": usage}).encode(),)
    choice = {"index": 0, "delta": {"content": " token"}, "finish_reason": None}
    event = b"data: %s\n\n" % json.dumps(_completion("chat.completion.chunk", choice)).encode()
    return (*(event,) * (answer.num_chunks - 1), event + b"data: [DONE]\n\n")


def _completion(kind: str, choice: dict[str, object]) -> dict[str, object]:
    head = {"id": _COMPLETION_ID, "object": kind, "created": 1_700_000_000, "model": "bench"}
    return {**head, "choices": [choice]}


def _message(content_type: str, body: bytes, status: str = "200 OK") -> bytes:
    head = f"HTTP/1.1 {status}\r\ncontent-type: {content_type}\r\ncontent-length: {len(body)}"
    return head.encode() + b"\r\n\r\n" + body


def _writes(answer: Answer) -> tuple[bytes, ...]:
    """The bytes of an answer, cut where one write ends and the next begins."""
    parts = pieces(answer)
    if answer.num_chunks is None:
        return (_message("application/json", parts[0]),)
    chunks = [b"%x\r\n%s\r\n" % (len(part), part) for part in parts]
    chunks[-1] += b"0\r\n\r\n"
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
    return (head + b"transfer-encoding: chunked\r\n\r\n" + chunks[0], *chunks[1:])


class Script:
    """The answer that all workers give at present."""

    def __init__(self) -> None:
        self.set(Answer())

    def set(self, answer: Answer) -> None:
        """Answer so from the next request on."""
        self.writes = _writes(answer)
        self.pace_s = None if answer.pace_ms is None else answer.pace_ms / 1000


class WorkerConnection(asyncio.Protocol):
    """One connection from a proxy: reads a request to its end, then plays the script."""

    def __init__(self, script: Script, loop: asyncio.AbstractEventLoop) -> None:
        self._script = script
        self._loop = loop
        self._received = b""
        self._request_bytes: int | None = None  # None until the head is complete
        self._next_write: asyncio.Handle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop a stream that nobody reads any more."""
        if self._next_write is not None:
            self._next_write.cancel()

    def data_received(self, data: bytes) -> None:
        """Collect one request.  Nobody in this benchmark pipelines."""
        received = self._received = self._received + data if self._received else data
        if self._request_bytes is None:
            self._request_bytes = _request_bytes(received)
        if self._request_bytes is None or len(received) < self._request_bytes:
            return
        self._received, self._request_bytes = b"", None
        if received.startswith(b"POST /v1/chat/completions "):
            self._play(self._script.writes, self._script.pace_s)
        else:
            self._transport.write(self._other(received))

    def _play(self, writes: tuple[bytes, ...], pace_s: float | None) -> None:
        self._transport.write(writes[0])
        if len(writes) > 1:
            self._later(writes, 1, self._loop.time(), pace_s)

    def _later(self, writes: tuple[bytes, ...], k: int, start: float, pace_s: float | None) -> None:
        step = partial(self._step, writes, k, start, pace_s)
        if pace_s is None:
            self._next_write = self._loop.call_soon(step)
        else:
            self._next_write = self._loop.call_at(start + k * pace_s, step)

    def _step(self, writes: tuple[bytes, ...], k: int, start: float, pace_s: float | None) -> None:
        self._transport.write(writes[k])
        if k + 1 < len(writes):
            self._later(writes, k + 1, start, pace_s)

    def _other(self, request: bytes) -> bytes:
        """Set the script, or tell a router what it wants to know about a worker."""
        method, path = request.split(b" ", 2)[:2]
        if method == b"PUT":
            self._script.set(Answer(**json.loads(request.partition(b"\r\n\r\n")[2])))
        elif method != b"GET":
            return _message("application/json", b"{}", "404 Not Found")
        facts = _MODELS if path == b"/v1/models" else _FACTS
        return _message("application/json", json.dumps(facts).encode())


def _request_bytes(received: bytes) -> int | None:
    """Length of the request that begins here, or None if its head is not complete."""
    head_end = received.find(b"\r\n\r\n")
    if head_end < 0:
        return None
    head = received[:head_end].lower()
    at = head.find(b"\r\ncontent-length:")
    if at < 0:
        if b"\r\ntransfer-encoding:" in head:
            raise ValueError("the mock workers do not read chunked requests")
        return head_end + 4
    return head_end + 4 + int(head[at + 17 :].split(b"\r\n", 1)[0])


def answer_body(answer: Answer) -> bytes:
    """What `PUT /answer` expects."""
    return json.dumps(asdict(answer)).encode()


async def _serve() -> None:
    loop = asyncio.get_running_loop()
    script = Script()
    servers = [
        await loop.create_server(
            partial(WorkerConnection, script, loop), "127.0.0.1", 0, backlog=_BACKLOG
        )
        for _ in range(NUM_WORKERS)
    ]
    print(json.dumps([server.sockets[0].getsockname()[1] for server in servers]), flush=True)
    await asyncio.gather(*(server.serve_forever() for server in servers))


if __name__ == "__main__":
    uvloop.run(_serve())
