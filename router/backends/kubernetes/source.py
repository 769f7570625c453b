"""
The source that is a Kubernetes service: its ready endpoints, listed once and then watched.

    list ──► watch ──► watch ──► ...      each from the last version that was seen
      ▲        │ 410, or what cannot be
      └────────┘

    what happens                           what is done
    the watch ends, or breaks              it is begun again
    410 Gone                               listed again; until then what was told stands
    no answer, a refusal                   what was told stands; asked again after a pause that
                                           doubles up to half a minute, give or take half of it

The list is told as a whole, once a watch goes on from it, so an endpoint that went while nobody
watched is gone with the next one.  A pause lies before every question that no news came before.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable

from router.backends.kubernetes.api import BOOKMARK, DELETED, Api, ApiError, ApiServer, Event, Gone
from router.backends.kubernetes.service import parse_service
from router.backends.kubernetes.slices import Slice, backends_of
from router.backends.standing import Standing, Tell

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 30.0


class KubernetesSource:
    """Tells which endpoints of a service are ready."""

    def __init__(
        self,
        text: str,
        server: ApiServer,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        rng: random.Random | None = None,
    ) -> None:
        self._service = parse_service(text)
        self._server = server
        self._sleep = sleep
        self._rng = rng or random.Random()
        self._pause_s = _FIRST_PAUSE_S
        self._slices: dict[str, Slice] = {}
        self._version: str | None = None
        """Up to which the slices are known; None: they have to be listed."""
        self.standing = Standing(f"--backend-kubernetes {text}")

    @property
    def name(self) -> str:
        """The flag and the service."""
        return self.standing.name

    async def keep(self, tell: Tell) -> None:
        """Tell its ready endpoints, and again when they change, for ever."""
        while True:
            try:
                async with Api.opened(self._server, self._service) as api:
                    await self._follow(api, tell)
            except Gone:
                self._version = None
            except ApiError as error:
                self._version = None
                self.standing.bad(str(error), key=("API", error.status))
            await self._pause()

    async def _follow(self, api: Api, tell: Tell) -> None:
        """Until it cannot be asked.  Raises ApiError and Gone."""
        while True:
            if self._version is None:
                self._version, self._slices = await api.list()
            has_news = False
            async with api.watch(self._version) as events:
                self._tell(tell)  # not before: who may list and not watch would be good in turns
                async for event in events:
                    has_news = True
                    self._take(event, tell)
            self._pause_s = _FIRST_PAUSE_S  # it was good for as long as a watch lives
            if not has_news:
                await self._sleep(self._jittered(_FIRST_PAUSE_S))

    def _take(self, event: Event, tell: Tell) -> None:
        self._version, self._pause_s = event.version, _FIRST_PAUSE_S
        if event.kind == BOOKMARK:
            return
        if event.kind == DELETED:
            self._slices.pop(event.name, None)
        else:
            self._slices[event.name] = event.slice
        self._tell(tell)

    def _tell(self, tell: Tell) -> None:
        try:
            backends = backends_of(self._service, self._slices.values())
        except ValueError as error:
            self.standing.bad(str(error))
        else:
            self.standing.good(backends, tell)

    async def _pause(self) -> None:
        """Longer each time until there are news."""
        await self._sleep(self._jittered(self._pause_s))
        self._pause_s = min(2 * self._pause_s, _LONGEST_PAUSE_S)

    def _jittered(self, pause_s: float) -> float:
        """Not the same for all who ask that server."""
        return pause_s * self._rng.uniform(0.5, 1.5)
