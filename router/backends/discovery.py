"""
Finds out what backends are and how many DP groups.

Before anything is started: what a `--backend` says in full is taken as said, so an engine that is
told by kind and dp-size may come up later.  For the rest it has to answer: some time is
waited for that.  While the instance runs: one that comes has to answer, and is
asked until it does.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import httpx

from router.backends.backend import Backend, BackendGroup, Kind
from router.backends.evidence import PATHS, Evidence
from router.backends.inquiry import NoAnswer, inquire
from router.backends.kv_endpoint import check_endpoints, of_rank
from router.backends.rank_check import Heed, RankCheck
from router.errors import StartError

_log = logging.getLogger("levelhead.serve")
_ANSWER_LIMIT_S = 5.0
_PAUSE_S = 0.5
_WAIT_S = 60.0
_LONGEST_PAUSE_S = 10.0


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
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._sleep = sleep
        self._clock_s = clock_s

    async def groups(self, backends: Sequence[Backend]) -> list[Discovered]:
        """Those of each backend.  Raises StartError if one that has to be asked does not answer."""
        return list(await asyncio.gather(*map(self._of, backends)))

    async def found(self, backend: Backend, tell: Callable[[str], None]) -> Discovered:
        """Of one that comes while others serve: asked for ever, and `tell` hears what is wrong."""
        pause_s, silent_since_s = _PAUSE_S, None
        while True:
            evidence = await self._ask(backend)
            is_enough = evidence.has_any and _is_enough(backend, evidence)
            if not is_enough and (backend.kind or evidence.kind()):  # it is up: it may never tell
                silent_since_s = silent_since_s or self._clock_s()
                is_enough = evidence.has_any and self._clock_s() - silent_since_s >= _WAIT_S
            try:
                if is_enough:
                    return await self._made(backend, evidence)
                tell(_why_not_yet(backend, evidence))
            except StartError as error:
                tell(str(error))
            await self._sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    async def _of(self, backend: Backend) -> Discovered:
        return await self._made(backend, await self._evidence(backend))

    async def _made(self, backend: Backend, evidence: Evidence) -> Discovered:
        kind = backend.kind or evidence.kind()
        if kind is None:
            raise StartError(_why_unknown(backend, evidence))
        if not kind.has_ranks and backend.dp_size not in (None, 1):
            raise StartError(
                f"--backend {backend.url} is {kind}, which has no DP ranks that can be asked for: "
                f"leave out dp-size={backend.dp_size}"
            )
        if backend.dp_size is None and not evidence.ranks(kind):
            if not evidence.has_any:  # one group of an engine that may have several
                raise StartError(_why_unknown(backend, evidence))
            _log.warning(
                "%s does not tell how many DP ranks it has: it is one group; dp-size=N says "
                "otherwise", backend.url,
            )  # fmt: skip
        ranks = _ranks(backend, kind, evidence.ranks(kind))
        groups = _groups(backend, kind, ranks)
        if len(groups) > 1 and not await self._are_heeded(groups, evidence):
            groups = _groups(backend, kind, ranks[:1])
        if len(groups) == 1 and max(len(ranks), len(evidence.ranks(kind))) > 1:
            groups = tuple(map(_without_events, groups))
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
        until_s, evidence = self._clock_s() + _WAIT_S, await self._ask(backend)
        if not _is_enough(backend, evidence):  # it is not up, or answers that it loads its model
            _log.info("waiting for %s to say what it is", backend.url)
        while not _is_enough(backend, evidence) and self._clock_s() < until_s:
            await self._sleep(_PAUSE_S)
            evidence = await self._ask(backend)
        return evidence

    async def _ask(self, backend: Backend) -> Evidence:
        answers = await asyncio.gather(*(self._get(backend.url + path) for path in PATHS))
        return Evidence(dict(zip(PATHS, answers, strict=True)))

    async def _get(self, url: str) -> bytes | None:
        """The body of a good answer, empty for another one; None if there was none."""
        try:
            answer = await inquire(self._client, url, _ANSWER_LIMIT_S)
        except NoAnswer:
            return None
        return answer.body if answer.is_good else b""


def _is_enough(backend: Backend, evidence: Evidence) -> bool:
    """Whether what the operator has not said is told."""
    kind = backend.kind or evidence.kind()
    if kind is None:
        return False
    return not kind.has_ranks or backend.dp_size is not None or bool(evidence.ranks(kind))


def _why_not_yet(backend: Backend, evidence: Evidence) -> str:
    if not evidence.has_any:
        return f"{backend.url} does not answer: it is asked until it does"
    kind = backend.kind or evidence.kind()
    if kind is None:
        return (
            f"{backend.url} answers, but not as any engine that is known here, or not yet; "
            "kind=... says what it is"
        )
    return f"{backend.url} is {kind}, and does not tell yet how many DP ranks it has (dp-size=N)"


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
        what = (
            "it is ONE group, and spreads requests over them by itself"
            if size == 1
            else f"ranks 0 to {size - 1} are addressed"
        )
        _log.warning(
            "%s: dp-size=%d was said, the engine tells of %d DP rank(s): %s",
            backend.url, size, len(told), what,
        )  # fmt: skip
    return tuple(range(size))


def _groups(backend: Backend, kind: Kind, ranks: tuple[int, ...]) -> tuple[BackendGroup, ...]:
    """One rank alone is not addressed: there is no other one that could answer."""
    named: list[int | None] = list(ranks) if len(ranks) > 1 else [None]
    try:
        check_endpoints(kind, backend.kv_events, backend.kv_replay)
        endpoints = [
            (of_rank(backend.kv_events, rank), of_rank(backend.kv_replay, rank)) for rank in ranks
        ]
    except ValueError as error:
        raise StartError(f"--backend {backend.url}: {error}") from None
    return tuple(
        BackendGroup(
            backend.host,
            backend.port,
            kind,
            rank,
            weight=backend.weight,
            tls=backend.tls,
            api_key_env=backend.api_key_env,
            kv_events=events,
            kv_replay=replay,
        )
        for rank, (events, replay) in zip(named, endpoints, strict=False)
    )


def _without_events(group: BackendGroup) -> BackendGroup:
    """A group of several ranks: which of them a request goes to, and what that has, who knows?"""
    if group.kv_events:
        _log.error(
            "%s is ONE group of several ranks: its KV events are not used, for nobody knows which "
            "rank a request goes to", group.url,
        )  # fmt: skip
    return replace(group, kv_events="", kv_replay="")
