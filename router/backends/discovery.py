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
from router.backends.rank_check import Heed, RankCheck
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
        evidence = await self._evidence(backend)
        kind = backend.kind or evidence.kind()
        if kind is None:
            raise StartError(_why_unknown(backend, evidence))
        ranks = _ranks(backend, kind, evidence.ranks(kind))
        groups = _groups(backend, kind, ranks)
        if len(groups) > 1 and not await self._are_heeded(groups, evidence):
            groups = _groups(backend, kind, ranks[:1])
        return Discovered(groups, evidence.model)

    async def _are_heeded(self, groups: tuple[BackendGroup, ...], evidence: Evidence) -> bool:
        """False if the engine was seen not to heed the rank that it is asked for."""
        url, heed = groups[0].url, Heed.UNSEEN
        if evidence.has_any:
            heed = await RankCheck(self._client, self._sleep).of(groups, evidence.model)
        if heed is Heed.NO:
            _log.error(
                "%s does not heed the DP rank that it is asked for: it is ONE group, and spreads "
                "requests over its ranks by itself", url,
            )  # fmt: skip
        elif heed is Heed.UNSEEN:
            _log.warning("%s: whether it heeds the DP rank it is asked for was not seen", url)
        return heed is not Heed.NO

    async def _evidence(self, backend: Backend) -> Evidence:
        """What the server tells: once what is needed is among it, or when it was long enough."""
        evidence = await self._ask(backend)
        for number in range(1, self._max_tries):
            if _is_enough(backend, evidence):
                break
            if number == 1:  # it is not up, or answers that it loads its model
                _log.info("waiting for %s to say what it is", backend.url)
            await self._sleep(_PAUSE_S)
            evidence = await self._ask(backend)
        return evidence

    async def _ask(self, backend: Backend) -> Evidence:
        answers = await asyncio.gather(*(self._get(backend.url + path) for path in PATHS))
        return Evidence(dict(zip(PATHS, answers, strict=True)))

    async def _get(self, url: str) -> bytes | None:
        """The body of a good answer, empty for another one; None if there was none."""
        try:
            answer = await self._client.get(url, timeout=_ANSWER_LIMIT_S)
        except (httpx.HTTPError, httpx.InvalidURL):
            return None
        return answer.content if answer.status_code == httpx.codes.OK else b""


def _is_enough(backend: Backend, evidence: Evidence) -> bool:
    """Whether what the operator has not said is told."""
    kind = backend.kind or evidence.kind()
    if kind is None:
        return False
    return not kind.has_ranks or backend.dp_size is not None or bool(evidence.ranks(kind))


def _why_unknown(backend: Backend, evidence: Evidence) -> str:
    if not evidence.has_any:
        return (
            f"--backend {backend.url} does not answer; with kind=... and dp-size=... it need not "
            "be up yet"
        )
    return (
        f"--backend {backend.url} answers, but not as any engine that is known here; say what it "
        "is: kind=..."
    )


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
    return tuple(
        BackendGroup(backend.host, backend.port, kind, rank, backend.weight) for rank in named
    )
