"""
Newcomers: backends that are wanted and not known yet, each asked what it is until it says so.

One that is not up, or says nothing that is understood, is asked again for ever, ever more
slowly, and keeps nobody else waiting.  What is wrong is told once, until it is something else.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

from router.backends.backend import Backend, BackendGroup
from router.backends.discovery import Discovery
from router.control_plane.keyed_tasks import KeyedTasks

_log = logging.getLogger("levelhead.control_plane")


class Found(NamedTuple):
    """One that has said what it is."""

    backend: Backend
    groups: tuple[BackendGroup, ...]


class Newcomers:
    """Asks over one client; owns what was found until somebody takes it."""

    def __init__(self, discovery: Discovery, on_found: Callable[[], None]) -> None:
        self._discovery = discovery
        self._on_found = on_found
        self._looked_for: dict[str, Backend] = {}
        self._problems: dict[str, str] = {}
        self._found: dict[str, Found] = {}
        self.tasks = KeyedTasks()

    @property
    def found(self) -> list[Found]:
        """Those that nobody has taken yet."""
        return list(self._found.values())

    def problem(self, url: str) -> str:
        """Why it is not known yet, as far as anything was seen; else empty."""
        return self._problems.get(url, "")

    def trouble(self, url: str, problem: str) -> None:
        """That keeps it from being a group: told once."""
        if self._problems.get(url) != problem:
            self._problems[url] = problem
            _log.warning("%s", problem)

    def look_for(self, backends: Sequence[Backend]) -> None:
        """These, and no others, are to be found out; one that is told otherwise begins anew."""
        wanted = {backend.url: backend for backend in backends}
        for url, backend in list(self._looked_for.items()):
            if _settings(wanted.get(url)) != _settings(backend):
                self._forget(url)
        for url, backend in wanted.items():
            is_new = url not in self._looked_for
            self._looked_for[url] = backend
            if is_new:
                self.tasks.start(url, lambda url=url: self._find(url))  # type: ignore[misc]

    def _forget(self, url: str) -> None:
        del self._looked_for[url]
        self._found.pop(url, None)
        self._problems.pop(url, None)
        self.tasks.stop(url)

    async def _find(self, url: str) -> None:
        backend = self._looked_for[url]
        discovered = await self._discovery.found(
            backend, lambda problem: self.trouble(url, problem)
        )
        self._problems.pop(url, None)
        self._found[url] = Found(backend, discovered.groups)
        self._on_found()


def _settings(backend: Backend | None) -> object:
    """All but the weight, which nobody has to be asked for."""
    return backend and replace(backend, weight=1.0)
