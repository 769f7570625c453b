"""
One question to an engine that is not ours, with limits on the whole of its answer.

httpx limits each read, so an engine that sends a byte now and then would be waited for
without end, and one that never stops sending would be kept whole.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, NamedTuple

import httpx

from router.errors import RouterError

_MAX_BODY_BYTES = 16 << 20  # metrics of many ranks are some megabytes
_PLAIN = {"accept-encoding": "identity"}  # else a small answer may be a large one


class NoAnswer(RouterError):
    """None that is whole, in time and of a bounded size."""


class Answer(NamedTuple):
    """What was answered."""

    status: int
    body: bytes

    @property
    def is_good(self) -> bool:
        """Whether it is what was asked for."""
        return self.status == httpx.codes.OK


async def inquire(
    client: httpx.AsyncClient,
    url: str,
    limit_s: float,
    json: Mapping[str, Any] | None = None,
    headers: Mapping[str, str] | None = None,
) -> Answer:
    """GET that, or POST the object there, and read the answer to its end.  Raises NoAnswer."""
    method, headers = ("GET" if json is None else "POST"), _PLAIN | dict(headers or {})
    try:
        async with (
            asyncio.timeout(limit_s),
            client.stream(method, url, json=json, headers=headers, timeout=limit_s) as answer,
        ):
            body = bytearray()
            async for part in answer.aiter_bytes():
                body += part
                if len(body) > _MAX_BODY_BYTES:
                    raise NoAnswer(f"{url} answers more than {_MAX_BODY_BYTES} bytes")
            return Answer(answer.status_code, bytes(body))
    except TimeoutError:
        raise NoAnswer(f"{url} has not answered within {limit_s:g} s") from None
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise NoAnswer(f"{url}: {error!r}") from None
