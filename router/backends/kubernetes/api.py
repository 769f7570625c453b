"""
A Kubernetes API server, asked for the EndpointSlices of a service: list, then watch.

Only what that takes.  Credentials are read at each request: Kubernetes replaces a token within
the hour.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import orjson

from router.backends.inquiry import NoAnswer, inquire
from router.backends.kubernetes.service import Service
from router.backends.kubernetes.slices import Slice
from router.backends.tls import SYSTEM, TlsContexts
from router.errors import RouterError

WATCH_S = 60
_LIMIT_S = 15.0
BOOKMARK, DELETED = "BOOKMARK", "DELETED"
_SILENCE_S = WATCH_S + _LIMIT_S  # the server ends a watch by itself, so a silent one is lost
_MAX_LINE_BYTES = 16 << 20
_MAX_REFUSAL_BYTES = 4096


class ApiError(RouterError):
    """The API server cannot be asked, refuses, or answers what cannot be."""

    def __init__(self, text: str, status: int | None = None) -> None:
        super().__init__(text)
        self.status = status
        """That it refuses with; None: something else is wrong."""


class Gone(RouterError):
    """What was seen last is too old to go on from: it has to be listed again."""


@dataclass(frozen=True, slots=True)
class ApiServer:
    """Where it is, and what it takes to ask it."""

    url: str
    token_file: str | None = None
    ca_file: str | None = None
    """None: the authorities that this machine trusts."""


class Listed(NamedTuple):
    """All slices at one instant."""

    version: str
    slices: dict[str, Slice]
    """By name."""


class Event(NamedTuple):
    """One change."""

    kind: str
    """ADDED, MODIFIED, DELETED, or BOOKMARK, which tells a version and nothing else."""
    version: str
    name: str
    """Of the slice."""
    slice: Slice


class Api:
    """Asks over one client."""

    def __init__(self, server: ApiServer, service: Service, client: httpx.AsyncClient) -> None:
        self._server = server
        self._service = service
        self._client = client

    @classmethod
    @asynccontextmanager
    async def opened(cls, server: ApiServer, service: Service) -> AsyncIterator[Api]:
        """With a client of its own.  Raises ApiError if the file of its authorities is no good."""
        try:
            context = TlsContexts().of(server.ca_file or SYSTEM)
        except OSError as error:
            raise ApiError(f"{server.ca_file}: {error}") from None
        async with httpx.AsyncClient(verify=context, trust_env=False) as client:
            yield cls(server, service, client)

    async def list(self) -> Listed:
        """What there is now.  Raises ApiError."""
        try:
            answer = await inquire(self._client, self._url({}), _LIMIT_S, headers=self._headers())
        except NoAnswer as error:
            raise ApiError(str(error)) from None
        if not answer.is_good:
            raise _refused(answer.status, answer.body)
        try:
            told = orjson.loads(answer.body)
            slices = {each["metadata"]["name"]: each for each in told["items"] or ()}
            return Listed(told["metadata"]["resourceVersion"], slices)
        except (ValueError, KeyError, TypeError) as error:
            raise ApiError(f"its list of EndpointSlices is not one: {error!r}") from None

    @asynccontextmanager
    async def watch(self, version: str) -> AsyncIterator[AsyncIterator[Event]]:
        """
        Changes since that version, until the server ends the watch or the connection breaks.

        Raises ApiError, and Gone; what breaks later just ends, as a watch does anyway.
        """
        wanted = {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": version,
            "timeoutSeconds": str(WATCH_S),
        }
        timeout = httpx.Timeout(_LIMIT_S, read=_SILENCE_S)
        request = self._client.build_request(
            "GET", self._url(wanted), headers=self._headers(), timeout=timeout
        )
        try:
            answer = await self._client.send(request, stream=True)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise ApiError(f"{self._server.url}: {error!r}") from None
        try:
            if answer.status_code != httpx.codes.OK:
                raise _refused(answer.status_code, await _beginning(answer))
            yield _events(answer)
        finally:
            await answer.aclose()

    def _url(self, wanted: Mapping[str, str]) -> str:
        selector = {"labelSelector": f"kubernetes.io/service-name={self._service.name}"}
        path = f"/apis/discovery.k8s.io/v1/namespaces/{self._service.namespace}/endpointslices"
        return f"{self._server.url}{path}?{httpx.QueryParams(selector | dict(wanted))}"

    def _headers(self) -> dict[str, str]:
        if self._server.token_file is None:
            return {}
        try:
            token = Path(self._server.token_file).read_text("ascii").strip()
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else "is no ASCII"
            raise ApiError(f"{self._server.token_file}: {why}") from None
        if not token.isprintable() or " " in token or not token:
            raise ApiError(f"{self._server.token_file}: there is no token in it")
        return {"authorization": f"Bearer {token}"}


async def _events(answer: httpx.Response) -> AsyncIterator[Event]:
    rest = bytearray()
    try:
        async for part in answer.aiter_bytes():
            rest += part
            *lines, rest = rest.split(b"\n")
            for line in filter(None, lines):
                yield _event(line)
            if len(rest) > _MAX_LINE_BYTES:
                raise ApiError(f"an event is over {_MAX_LINE_BYTES} bytes")
    except httpx.HTTPError:
        return  # whoever watches goes on from the last version that it saw


def _event(line: bytes | bytearray) -> Event:
    try:
        told = orjson.loads(line)
        kind, what = told["type"], told["object"]
        if kind == "ERROR":
            raise _refused(what.get("code", 500), orjson.dumps(what))
        name = "" if kind == BOOKMARK else what["metadata"]["name"]
        return Event(kind, what["metadata"]["resourceVersion"], name, what)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ApiError(f"an event is not one: {error!r}") from None


async def _beginning(answer: httpx.Response) -> bytes:
    body = b""
    try:
        async for part in answer.aiter_bytes():
            body += part
            if len(body) > _MAX_REFUSAL_BYTES:
                break
    except httpx.HTTPError:
        return b""
    return body


def _refused(status: int, body: bytes) -> RouterError:
    try:
        told: Any = orjson.loads(body)["message"]
    except (ValueError, KeyError, TypeError):
        told = "no reason told"
    if status == httpx.codes.GONE:
        return Gone(str(told))
    return ApiError(f"it answers {status}: {told}", status)
