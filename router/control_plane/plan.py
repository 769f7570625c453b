"""What has to be done so that the engines that have slots are the backends that are wanted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import NamedTuple

from router.backends.backend import Backend
from router.control_plane.engines import Engine
from router.control_plane.roster import Wanted


class Plan(NamedTuple):
    """Nothing of it has been done."""

    changed: list[Engine]
    """As they are to be: leaving, serving again, of another weight."""
    missing: list[Backend]
    """Wanted, and there is no engine that serves: to be found out."""


def plan(wanted: Mapping[str, Wanted], engines: Iterable[Engine], now_ns: int) -> Plan:
    """
    Leaving is who is not wanted, or wanted otherwise than it is; who is wanted again stays.

    Of several at one URL that are what is wanted, the one that serves stays, or else the last.
    """
    engines = list(engines)
    stays = _staying(wanted, engines)
    changed = []
    for engine in engines:
        now = engine
        if stays.get(engine.url) == engine.epoch:
            backend = replace(engine.backend, weight=wanted[engine.url].backend.weight)
            is_returning = engine.is_leaving or engine.is_returning
            now = replace(engine, backend=backend, leaving_ns=None, is_returning=is_returning)
        elif not engine.is_leaving:
            now = replace(engine, leaving_ns=now_ns, is_returning=False)
        if now != engine:
            changed.append(now)
    missing = [each.backend for url, each in wanted.items() if url not in stays]
    return Plan(changed, missing)


def _staying(wanted: Mapping[str, Wanted], engines: Iterable[Engine]) -> dict[str, int]:
    """Epoch of the engine that is what is wanted, by URL."""
    found: dict[str, Engine] = {}
    for engine in engines:
        if engine.url not in wanted or not engine.fits(wanted[engine.url].backend):
            continue
        other = found.get(engine.url)
        if other is None or other.is_leaving:
            found[engine.url] = engine
    return {url: engine.epoch for url, engine in found.items()}
