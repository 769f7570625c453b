"""
Finds out, before anything is started, what backends are and how many DP groups.

What a `--backend` says in full is taken as said, so an engine that is told by kind and
dp-size may come up later.  For the rest it has to answer: some time is waited for that.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

import httpx

from router.backends.backend import Backend, BackendGroup, Kind
from router.backends.evidence import PATHS, Evidence
from router.errors import StartError

_log = logging.getLogger("levelhead.serve")
_ANSWER_LIMIT_S = 5.0
_PAUSE_S = 0.5
_MAX_TRIES = 120  # a minute, if nobody listens there


class Discovered(NamedTuple):
    """One backend: its groups, and the model that it serves."""

    groups: tuple[BackendGroup, ...]
    model: str
    """Empty if it is not known."""


class Discovery:
    """Asks servers over one client."""

    def __init__(
        self,
        client: httpx.AsyncClient,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        max_tries: int = _MAX_TRIES,
    ) -> None:
        self._client = client
        self._sleep = sleep
        self._max_tries = max_tries

    async def groups(self, backends: Sequence[Backend]) -> list[Discovered]:
        """Those of each backend.  Raises StartError if one that has to be asked does not answer."""
        return list(await asyncio.gather(*map(self._of, backends)))

    async def _of(self, backend: Backend) -> Discovered:
        needs_answer = _is_open(backend)
        evidence = await self._evidence(backend, self._max_tries if needs_answer else 1)
        if evidence is None and needs_answer:
            raise StartError(
                f"--backend {backend.url} does not answer; with kind=... and dp-size=... it need "
                "not be up yet"
            )
        evidence = evidence or Evidence({})
        kind = backend.kind or evidence.kind()
        if kind is None:
            raise StartError(
                f"--backend {backend.url} answers, but not as any engine that is known here; say "
                "what it is: kind=..."
            )
        ranks = _ranks(backend, kind, evidence.ranks(kind))
        _log.info("%s is %s with %d DP group(s)", backend.url, kind, len(ranks))
        return Discovered(_groups(backend, kind, ranks), evidence.model)

    async def _evidence(self, backend: Backend, max_tries: int) -> Evidence | None:
        """What the server tells; None if nobody answers there."""
        for number in range(max_tries):
            if number == 1:
                _log.info("waiting for %s to answer", backend.url)
            if number:
                await self._sleep(_PAUSE_S)
            answers = await asyncio.gather(*(self._get(backend.url + path) for path in PATHS))
            if any(answer is not None for answer in answers):
                told = zip(PATHS, answers, strict=True)
                return Evidence({path: answer for path, answer in told if answer})
        return None

    async def _get(self, url: str) -> bytes | None:
        """The body of a good answer, empty of another one; None if there was none."""
        try:
            answer = await self._client.get(url, timeout=_ANSWER_LIMIT_S)
        except (httpx.HTTPError, httpx.InvalidURL):
            return None
        return answer.content if answer.status_code == httpx.codes.OK else b""


def _is_open(backend: Backend) -> bool:
    """Whether something of it has to be found out."""
    return backend.kind is None or (backend.kind.has_ranks and backend.dp_size is None)


def _ranks(backend: Backend, kind: Kind, told: tuple[int, ...]) -> tuple[int, ...]:
    """The ranks to address: those that the engine tells of, if they are as many as was said."""
    size = backend.dp_size
    if size is None or size == len(told):
        return told or (0,)
    if told and kind.has_ranks:
        _log.warning(
            "%s: dp-size=%d was said, the engine tells of %d DP rank(s): %d are addressed",
            backend.url, size, len(told), size,
        )  # fmt: skip
    return tuple(range(size))


def _groups(backend: Backend, kind: Kind, ranks: tuple[int, ...]) -> tuple[BackendGroup, ...]:
    """One rank alone is not addressed: there is no other one that could answer."""
    named: list[int | None] = list(ranks) if len(ranks) > 1 else [None]
    return tuple(BackendGroup(backend.host, backend.port, kind, rank) for rank in named)
