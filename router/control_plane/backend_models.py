"""
What the engines of backends serve: their own lists of models and adapters, asked for again
and again.

A list goes into the group table, so that a request goes where its model is; and all lists
together are the answer to `GET /v1/models` where there are several engines.  An engine that
serves whatever name it is asked for (llama.cpp), or whose list is not to be had, or is too long
for its row of the table, is one whose models are not known: it may serve any.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from typing import Any

import httpx
import orjson

from router.backends.backend import Kind
from router.backends.inquiry import NoAnswer, inquire
from router.control_plane.engines import Engine

_log = logging.getLogger("levelhead.control_plane")
_PERIOD_S = 2.0  # a request for an adapter that was just loaded is refused for so long
_UNTIL_KNOWN_S = 1.0
_ANSWER_LIMIT_S = 5.0
_MAX_NAME_BYTES = 480  # of all, as JSON, in a row of the table, which has 2,304
_SERVES_ANY = (Kind.LLAMACPP,)


class BackendModels:
    """Asks over one client; owns the lists of those engines that there are."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._kinds: dict[str, Kind] = {}
        self._client = client
        self._lists: dict[str, list[dict[str, Any]]] = {}
        self._too_long: set[str] = set()

    def follow(self, engines: Iterable[Engine]) -> None:
        """These are there, and no others: what others listed is forgotten."""
        self._kinds = {engine.url: engine.kind for engine in engines}
        for url in self._lists.keys() - self._kinds.keys():
            del self._lists[url]
        self._too_long &= self._kinds.keys()

    def names(self, url: str) -> tuple[str, ...]:
        """Of the models that the engine there serves and no others; none if that is not known."""
        if self._kinds[url] in _SERVES_ANY:
            return ()
        names = tuple(model["id"] for model in self._lists.get(url, ()))
        if len(orjson.dumps(names)) <= _MAX_NAME_BYTES:
            return names
        if url not in self._too_long:
            self._too_long.add(url)
            _log.warning("%s lists %d models: too many to choose groups by", url, len(names))
        return ()

    def all(self) -> list[dict[str, Any]]:
        """Every model once, as the first engine that has it tells of it."""
        found: dict[str, dict[str, Any]] = {}
        for url in self._kinds:
            for model in self._lists.get(url, ()):
                found.setdefault(model["id"], model)
        return list(found.values())

    async def keep_asking(self, url: str) -> None:
        """Again and again, for ever."""
        while True:
            await self.ask(url)
            await asyncio.sleep(_PERIOD_S if url in self._lists else _UNTIL_KNOWN_S)

    async def ask(self, url: str) -> None:
        """Once.  What an engine said last stands while it says nothing."""
        try:
            answer = await inquire(self._client, f"{url}/v1/models", _ANSWER_LIMIT_S)
            listed = orjson.loads(answer.body)["data"] if answer.is_good else None
            if url not in self._kinds:  # it has left meanwhile
                return
            if listed is not None and all(isinstance(model["id"], str) for model in listed):
                self._lists[url] = listed
        except (NoAnswer, ValueError, KeyError, TypeError):
            return
