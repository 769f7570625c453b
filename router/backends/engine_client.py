"""
The client that asks engines: each in its own way, by who it is.

Whoever asks has a URL.  What else it takes to be let in there (TLS and how it is verified, a
key) is looked up by the server that the URL names, so that a key goes to nobody else.
The key is for what we ask ourselves; what a client sends goes with the client's own.
"""

from __future__ import annotations

import logging
import ssl
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import httpx

from router.backends.backend import Backend, BackendGroup
from router.backends.tls import SYSTEM, TlsContexts

_log = logging.getLogger("levelhead.backends")
_DEFAULT_PORTS = {"http": 80, "https": 443}
_LIMITS = httpx.Limits(max_connections=None, max_keepalive_connections=None)
_FIRST, _LAST = "!", "~"
"""Of the printable ASCII characters, space left out."""


class Access(NamedTuple):
    """What it takes to ask a server."""

    tls: str = ""
    api_key: str | None = None


class Accesses:
    """Of all backends that were learnt, by their URLs; the keys are those of `environment`."""

    def __init__(
        self, environment: Mapping[str, str], backends: Iterable[Backend | BackendGroup] = ()
    ) -> None:
        self._environment = environment
        self._known: dict[str, Access] = {}
        self._refused: dict[str, str] = {}
        """Why no TLS came about, by server: what was told."""
        self.learn(backends)

    def learn(self, backends: Iterable[Backend | BackendGroup]) -> None:
        """These may be asked, from now on in this way."""
        for backend in backends:
            key = self._environment.get(backend.api_key_env) if backend.api_key_env else None
            self._known[_origin(httpx.URL(backend.url))] = Access(backend.tls, key)

    def of(self, url: httpx.URL) -> Access:
        """Of whoever answers there.  Who is not known gets no key, and is verified."""
        return self._known.get(_origin(url)) or Access(SYSTEM if url.scheme == "https" else "")

    def note(self, url: httpx.URL, why_no_tls: str | None) -> None:
        """Tell once why a server cannot be asked, and once that it can: None."""
        origin = _origin(url)
        if why_no_tls is None:
            if self._refused.pop(origin, None) is not None:
                _log.info("%s: TLS comes about again", origin)
        elif self._refused.get(origin) != why_no_tls:
            self._refused[origin] = why_no_tls
            _log.warning("%s cannot be reached, TLS does not come about: %s", origin, why_no_tls)


class EngineTransport(httpx.AsyncBaseTransport):
    """A pool of connections for each way to verify."""

    def __init__(self, accesses: Accesses, limits: httpx.Limits = _LIMITS) -> None:
        self._accesses = accesses
        self._limits = limits
        self._contexts = TlsContexts()
        self._pools: dict[object, httpx.AsyncHTTPTransport] = {}

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Let it in there, and pass it on."""
        access = self._accesses.of(request.url)
        if access.api_key is not None and "authorization" not in request.headers:
            request.headers["authorization"] = f"Bearer {access.api_key}"
        try:
            answer = await self._pool(access.tls, request).handle_async_request(request)
        except httpx.ConnectError as error:
            why = _why_no_tls(error)
            if why is not None:
                self._accesses.note(request.url, why)
            raise
        if access.tls:
            self._accesses.note(request.url, None)
        return answer

    async def aclose(self) -> None:
        """Close every connection."""
        for pool in self._pools.values():
            await pool.aclose()

    def _pool(self, tls: str, request: httpx.Request) -> httpx.AsyncHTTPTransport:
        try:
            context = self._contexts.of(tls) if tls else None
        except OSError as error:
            why = ssl.SSLError(f"the file of its authorities: {error}")
            raise httpx.ConnectError(str(why), request=request) from why
        if context not in self._pools:  # a new one when the file of its authorities has changed
            self._pools[context] = httpx.AsyncHTTPTransport(
                verify=False if context is None else context, limits=self._limits, trust_env=False
            )
        return self._pools[context]


def engine_client(accesses: Accesses) -> httpx.AsyncClient:
    """A client that keeps no question waiting for a connection of another engine's."""
    return httpx.AsyncClient(transport=EngineTransport(accesses), trust_env=False)


def why_no_key(backend: Backend, environment: Mapping[str, str]) -> str | None:
    """Why that backend's key cannot be sent; None if it can, or none is wanted.  Tells no key."""
    name = backend.api_key_env
    if name is None:
        return None
    if name not in environment:
        return f"api-key-env={name}: the environment has no {name}"
    key = environment[name]
    if key and all(_FIRST <= character <= _LAST for character in key):
        return None
    return (
        f"api-key-env={name}: what it holds is no key: allowed are printable ASCII characters, "
        "no space and no line's end"
    )


def _why_no_tls(error: BaseException | None) -> str | None:
    """The reason that TLS has for that error; None if it is about something else."""
    while error is not None:
        if isinstance(error, ssl.SSLError):
            return str(error)
        error = error.__cause__ or error.__context__
    return None


def _origin(url: httpx.URL) -> str:
    return f"{url.scheme}://{url.host}:{url.port or _DEFAULT_PORTS[url.scheme]}"
