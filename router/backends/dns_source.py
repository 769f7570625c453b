"""
The source that is a name: each address behind it is a backend, with the same settings.

    NAME:PORT[,SETTING=...]             A and AAAA, of the system's resolver
    _SERVICE._PROTO.NAME[,SETTING=...]  SRV, which tell ports, too

    answer                    what is done
    addresses                 they are told
    no such name, or none     what was told stands, until that was the answer three times in a row;
                              then there is none
    no answer                 what was told stands

A name goes for a moment when its records are replaced, or when a resolver has just started.  And
where no engine is ready, Kubernetes answers that there is no such name: so that is believed
in the end.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from functools import partial
from typing import NamedTuple

from router.backends.backend import Backend, authority_of, backend_of, parse_settings
from router.backends.kv_endpoint import check_ports
from router.backends.resolving import FAMILIES, Place, Unresolved, addresses, services, srv_is_there
from router.backends.standing import Standing, Tell

_NAME = re.compile(r"[a-z0-9_][a-z0-9_.-]{0,252}", re.IGNORECASE | re.ASCII)
_SETTINGS = ("kind", "dp-size", "weight", "api-key-env", "kv-events", "kv-replay")
_OURS = ("family", "every")
_EVERY_S, _LEAST_S, _MOST_S = 5.0, 1.0, 3600.0
_TIMES_TO_BELIEVE = 3
_PATIENCE_S = 10.0


class DnsName(NamedTuple):
    """What a `--backend-dns` says."""

    name: str
    port: int | None
    """None: SRV records tell."""
    settings: dict[str, str]
    """Of each backend."""
    family: str
    every_s: float

    def backend(self, host: str, port: int) -> Backend:
        """The one that is there."""
        return backend_of(f"http://{authority_of(host, port)}", self.settings)


def parse_dns(text: str) -> DnsName:
    """What `text` says.  Raises ValueError, saying what is allowed."""
    target, *texts = text.split(",")
    settings = parse_settings(texts, "the name", (*_SETTINGS, *_OURS))
    check_ports(settings)
    name, colon, port = target.partition(":")
    is_srv = name.startswith("_") and not colon
    if not _NAME.fullmatch(name) or not (is_srv or (port.isascii() and port.isdigit())):
        raise ValueError(
            f"{target!r}: allowed are NAME:PORT, and _SERVICE._PROTO.NAME without port"
        )
    if is_srv and not srv_is_there():
        raise ValueError(
            f"{target!r}: SRV records need a package that is not there: pip install "
            "'levelhead[dns]'; NAME:PORT needs none"
        )
    family, every_s = _family(settings.pop("family", "any")), _every(settings.pop("every", None))
    told = DnsName(name, None if is_srv else int(port), settings, family, every_s)
    told.backend("192.0.2.1", 80 if is_srv else int(port))  # refuses what is bad
    return told


def _family(text: str) -> str:
    if text not in FAMILIES:
        raise ValueError(f"family={text}: allowed are {', '.join(FAMILIES)}")
    return text


def _every(text: str | None) -> float:
    try:
        every_s = _EVERY_S if text is None else float(text)
    except ValueError:
        every_s = 0.0
    if not _LEAST_S <= every_s <= _MOST_S:
        raise ValueError(f"every={text}: allowed are seconds, {_LEAST_S:g} to {_MOST_S:g}")
    return every_s


class DnsSource:
    """Tells what a name resolves to."""

    def __init__(
        self,
        text: str,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        resolve: Callable[[], Awaitable[list[Place]]] | None = None,
        patience_s: float = _PATIENCE_S,
    ) -> None:
        """
        `resolve` raises Unresolved; the system's resolver unless given.

        `patience_s`: after that time without an answer it counts as bad, and is waited for.
        """
        self._asked = parse_dns(text)
        self._sleep = sleep
        self._resolve = resolve or _resolver(self._asked)
        self._patience_s = patience_s
        self._times_none = 0
        self.standing = Standing(f"--backend-dns {text}")

    @property
    def name(self) -> str:
        """The flag and the name."""
        return self.standing.name

    async def keep(self, tell: Tell) -> None:
        """Tell what it resolves to, and again when that changes, for ever."""
        while True:
            await self.ask(tell)
            await self._sleep(self._asked.every_s)

    async def ask(self, tell: Tell) -> None:
        """Once."""
        try:
            places = await self._answer()
        except Unresolved as error:
            self._times_none = 0
            self.standing.bad(str(error), key="no answer")
            return
        self._times_none = 0 if places else self._times_none + 1
        if places or self._times_none >= _TIMES_TO_BELIEVE:
            self.standing.good([self._asked.backend(*place) for place in places], tell)
        else:
            self.standing.bad("the answer is that there is none", key="none")

    async def _answer(self) -> list[Place]:
        """However long it takes: a second question would wait behind the first."""
        answering = asyncio.ensure_future(self._resolve())
        try:
            done, _ = await asyncio.wait((answering,), timeout=self._patience_s)
            if not done:
                self.standing.bad(f"no answer for {self._patience_s:g} s", key="no answer")
            return await answering
        finally:
            answering.cancel()


def _resolver(asked: DnsName) -> Callable[[], Awaitable[list[Place]]]:
    if asked.port is None:
        return partial(services, asked.name, asked.family)
    return partial(addresses, asked.name, asked.port, asked.family)
