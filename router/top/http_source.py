"""Looks at an instance over HTTP: its front door's port, or its control plane's socket."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import httpx
from pydantic import ValidationError

from router.control_plane.loads import Loads
from router.errors import KeyRefused, NoPicture
from router.instance import Instance
from router.top import words
from router.top.decisions import Decisions
from router.top.picture import Look

_TIMEOUT_S = 3.0
_NUM_DECISIONS = 20
_REFUSED = (401, 403)


class HttpSource:
    """Asks `/v1/loads` and `/admin/decisions`.  Owns the client, and closes it."""

    def __init__(
        self, client: httpx.AsyncClient, where: str, api_key: str | None, admin_key: str | None
    ) -> None:
        """`where` is what errors call it."""
        self._client = client
        self._where = where
        self._api = _bearer(api_key)
        self._admin = _bearer(admin_key)

    @classmethod
    def of_url(cls, url: str, api_key: str | None, admin_key: str | None) -> HttpSource:
        """A front door's."""
        client = httpx.AsyncClient(base_url=url, timeout=_TIMEOUT_S, trust_env=False)
        return cls(client, url, api_key, admin_key)

    @classmethod
    def of_control_plane(cls, instance: Instance) -> HttpSource:
        """The control plane's socket, which is in a folder of this user alone and wants no key."""
        transport = httpx.AsyncHTTPTransport(uds=instance.control_socket)
        client = httpx.AsyncClient(
            base_url="http://levelhead", transport=transport, timeout=_TIMEOUT_S
        )
        return cls(client, f"the control plane of {instance.name}", None, None)

    async def look(self) -> Look:
        """Raises NoPicture, or KeyRefused if no other question would help."""
        answer = await self._get("/v1/loads", {"front_doors": "true"}, self._api)
        if answer.status_code in _REFUSED:
            raise KeyRefused(f"{self._where}: {_said(answer)} (--api-key, LEVELHEAD_API_KEY)")
        if answer.status_code != 200:
            raise NoPicture(f"{self._where}: {answer.status_code} {_said(answer)}")
        try:
            loads = Loads.model_validate_json(answer.content)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise NoPicture(
                f"{self._where}: /v1/loads is not levelhead's: {where}: {first['msg']}"
            ) from error
        return Look(time.monotonic(), loads, await self.decisions())

    async def decisions(self) -> Decisions:
        """The last ones.  That there are none to be had is told, and raises nothing."""
        try:
            answer = await self._get("/admin/decisions", {"limit": _NUM_DECISIONS}, self._admin)
        except NoPicture as error:
            return Decisions(why_none=str(error))
        if answer.status_code in _REFUSED:
            return Decisions(why_none=f"{_said(answer)} (--admin-api-key)")
        if answer.status_code == 404:
            return Decisions(why_none="this instance tells none")
        return _decisions(answer)

    async def close(self) -> None:
        """Close its connections."""
        await self._client.aclose()

    async def _get(
        self, path: str, query: Mapping[str, Any], headers: Mapping[str, str]
    ) -> httpx.Response:
        try:
            return await self._client.get(path, params=query, headers=headers)
        except httpx.TimeoutException:
            raise NoPicture(f"{self._where} does not answer in {_TIMEOUT_S:g} s") from None
        except (httpx.HTTPError, OSError) as error:
            raise NoPicture(f"{self._where} cannot be reached: {error}") from error


def _bearer(key: str | None) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"} if key else {}


def _said(answer: httpx.Response) -> str:
    """The message of an error in OpenAI's shape, or the status's own words; foreign in any case."""
    try:
        return words.plain(answer.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return words.plain(answer.reason_phrase)


def _decisions(answer: httpx.Response) -> Decisions:
    try:
        told = answer.json()["decisions"]
        if answer.status_code == 200:
            return Decisions(tuple(each for each in told if isinstance(each, dict)))
    except (ValueError, KeyError, TypeError):
        pass
    return Decisions(why_none=f"/admin/decisions: {answer.status_code} {_said(answer)}")
