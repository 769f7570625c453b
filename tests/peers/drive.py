"""Clients: the official one, with its streams, and a bare socket that leaves before any answer."""

import asyncio
import json
import socket
from collections.abc import Sequence
from typing import NamedTuple
from urllib.parse import urlsplit

import openai

from tests.peers.engines import MODEL

_LIMIT_S = 300.0
_WORDS = ("sea", "level", "spirit", "bubble")


class Asked(NamedTuple):
    """One request for a stream of just so many tokens."""

    max_tokens: int
    num_words: int = 8
    dp_rank: int | None = None
    """The group that it names."""
    leaves_after: int | None = None
    """Events after which its client goes."""


class Seen(NamedTuple):
    """What came of it."""

    dp_rank: int
    """The group that the front door says it was sent to."""
    num_tokens: int


def seen_of(url: str, asked: Sequence[Asked], at_a_time: int = 8) -> list[Seen]:
    """Send them all, so many at a time, in order; raises what any of them raises."""
    return asyncio.run(_seen_of(url, asked, at_a_time))


async def _seen_of(url: str, asked: Sequence[Asked], at_a_time: int) -> list[Seen]:
    turns = asyncio.Semaphore(at_a_time)

    async def one(number: int, each: Asked) -> Seen:
        async with turns:
            return await _stream(client, each, number)

    async with openai.AsyncOpenAI(
        base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=_LIMIT_S
    ) as client:
        return await asyncio.gather(*(one(number, each) for number, each in enumerate(asked)))


async def _stream(client: openai.AsyncOpenAI, asked: Asked, number: int) -> Seen:
    named = {} if asked.dp_rank is None else {"X-Data-Parallel-Rank": str(asked.dp_rank)}
    raw = await client.completions.with_raw_response.create(
        model=MODEL,
        prompt=prompt(asked.num_words, number),
        max_tokens=asked.max_tokens,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
        extra_body={"ignore_eos": True},
        extra_headers=named,
    )
    dp_rank, num_events, produced = int(raw.headers["x-levelhead-dp-rank"]), 0, None
    async with raw.parse() as stream:
        async for event in stream:
            num_events += bool(event.choices)
            if num_events == asked.leaves_after:
                return Seen(dp_rank, num_events)
            produced = event.usage.completion_tokens if event.usage else produced
    assert produced == asked.max_tokens, f"{produced} of {asked.max_tokens} tokens came"
    return Seen(dp_rank, produced)


def prompt(num_words: int, number: int = 0) -> str:
    """So many words, different for each number."""
    return " ".join(_WORDS[(number >> k % 8 & 1) + 2 * (k % 2)] for k in range(num_words))


class Leaver:
    """A bare socket that has sent a request, whole, and reads nothing."""

    def __init__(self, url: str, asked: Asked, number: int = 0) -> None:
        address = urlsplit(url)
        fields = {"model": MODEL, "prompt": prompt(asked.num_words, number), "stream": True}
        fields |= {"max_tokens": asked.max_tokens, "ignore_eos": True}
        body = json.dumps(fields).encode()
        head = f"POST /v1/completions HTTP/1.1\r\nhost: {address.netloc}\r\n"
        if asked.dp_rank is not None:
            head += f"x-data-parallel-rank: {asked.dp_rank}\r\n"
        head += f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        self._socket = socket.create_connection((address.hostname, address.port), _LIMIT_S)
        self._socket.sendall(head.encode() + body)

    def leave(self) -> None:
        """Close the connection."""
        self._socket.close()
