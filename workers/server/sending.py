"""Raw ASGI: read a body, notice a hang-up, send JSON, send an event stream."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import orjson
from starlette.types import Receive, Send

from workers.server.errors import ApiError, ClientGone

DONE = b"data: [DONE]\n\n"


async def read_body(receive: Receive, max_bytes: int) -> bytes:
    """Return the whole body.  Raises ClientGone, or ApiError if it is too large."""
    parts, num_bytes = [], 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        parts.append(message.get("body", b""))
        num_bytes += len(parts[-1])
        if num_bytes > max_bytes:
            raise ApiError(413, f"the body has more than {max_bytes} bytes", code="body_too_large")
        if not message.get("more_body", False):
            return b"".join(parts)


async def watch(receive: Receive, on_gone: Callable[[], None]) -> None:
    """Wait for the client to hang up, and tell."""
    while (await receive())["type"] != "http.disconnect":
        pass
    on_gone()


async def send_json(
    send: Send, body: Any, status: int = 200, headers: Mapping[str, str] | None = None
) -> None:
    """Answer with JSON."""
    data = orjson.dumps(body)
    raw = [(name.encode(), value.encode()) for name, value in (headers or {}).items()]
    raw += [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(data))]
    await send({"type": "http.response.start", "status": status, "headers": raw})
    await send({"type": "http.response.body", "body": data})


async def send_error(send: Send, error: ApiError) -> None:
    """Answer with an error."""
    await send_json(send, error.body, error.status, error.headers)


def event(body: Any) -> bytes:
    """Return one server-sent event."""
    return b"data: " + orjson.dumps(body) + b"\n\n"


async def start_events(send: Send) -> None:
    """Begin an answer that is an event stream."""
    headers = [
        (b"content-type", b"text/event-stream; charset=utf-8"),
        (b"cache-control", b"no-cache"),
    ]
    await send({"type": "http.response.start", "status": 200, "headers": headers})


async def send_events(send: Send, data: bytes, is_last: bool) -> None:
    """Send some events in one piece."""
    await send({"type": "http.response.body", "body": data, "more_body": not is_last})
