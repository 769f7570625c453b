"""
The roster: which backends are wanted, and who says so.

    --backend    named for the whole run
    sources      each names all that it knows, again and again (router.backends.source)
    operator     names one after the other (`POST /admin/groups`)

A backend is known by its URL.  One that several name is one backend, with the settings of the
first of them in this order, and is wanted as long as one of them names it.

What an operator deletes is not wanted, whoever named it, until that one stops naming it: a
source that names it afresh later is heard again, and so is an operator.  A weight that an
operator sets counts until the weight that was said is another one, or nobody names the backend:
whoever is at that URL later, and whatever is said later, has nothing to do with it.

Pure: it knows what it was told.  What it must not forget when the control plane dies
is in `remembered`.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, NamedTuple

from router.backends.backend import Backend, Kind

_log = logging.getLogger("levelhead.control_plane")
FIXED = "--backend"
OPERATOR = "operator"


class Wanted(NamedTuple):
    """A backend that somebody names."""

    backend: Backend
    sources: tuple[str, ...]
    """By name; the settings are the first one's."""


class _Reweighed(NamedTuple):
    """An operator's weight, and the one that was said when he set it."""

    said: float
    weight: float


class Roster:
    """Belongs to the control plane; the one place that says which backends are wanted."""

    def __init__(self, fixed: Sequence[Backend], sources: Sequence[str] = ()) -> None:
        """`sources`: their names, the first counts first."""
        self._named: dict[str, dict[str, Backend]] = {
            FIXED: {each.url: each for each in fixed},
            **{name: {} for name in sources},
            OPERATOR: {},
        }
        self._deleted: dict[str, set[str]] = {}
        """Sources that are not heard, by URL."""
        self._weights: dict[str, _Reweighed] = {}

    def __repr__(self) -> str:
        return f"<Roster {list(self.wanted)}>"

    @property
    def wanted(self) -> dict[str, Wanted]:
        """All that are, by URL."""
        found: dict[str, Wanted] = {}
        for source, named in self._named.items():
            for url, backend in named.items():
                if source in self._deleted.get(url, ()):
                    continue
                first = found.get(url)
                if first is None:
                    found[url] = Wanted(self._weighed(backend), (source,))
                else:
                    found[url] = first._replace(sources=(*first.sources, source))
        return found

    def tell(self, source: str, backends: Sequence[Backend]) -> None:
        """That source names these, and no others."""
        before = self._named[source]
        now: dict[str, Backend] = {}
        for backend in backends:
            now.setdefault(backend.url, backend)
        self._named[source] = now
        for url, deleted in list(self._deleted.items()):
            if url not in now:
                deleted.discard(source)
            if not deleted:
                del self._deleted[url]
        self._forget_weights()
        for url, backend in now.items():
            if before.get(url) != backend:
                self._compare(source, backend)

    def add(self, backend: Backend) -> None:
        """An operator names it, which is not wanted."""
        assert backend.url not in self.wanted
        self._named[OPERATOR][backend.url] = backend

    def delete(self, url: str) -> None:
        """An operator wants it no more, whoever names it."""
        self._named[OPERATOR].pop(url, None)
        naming = {source for source, named in self._named.items() if url in named}
        if naming:
            self._deleted[url] = naming
        self._forget_weights()

    def reweigh(self, url: str, weight: float) -> None:
        """An operator gives a wanted one that weight."""
        said = self._said_weight(url)
        if said is not None:
            self._weights[url] = _Reweighed(said, weight)

    def remembered(self) -> dict[str, Any]:
        """What a later life of the control plane has to be told."""
        return {
            "named": {
                source: [asdict(each) for each in named.values()]
                for source, named in self._named.items()
            },
            "deleted": {url: sorted(sources) for url, sources in self._deleted.items()},
            "weights": {url: list(each) for url, each in self._weights.items()},
        }

    def recall(self, remembered: Mapping[str, Any]) -> None:
        """What an earlier life had; what sources name stands until they tell again."""
        for source, named in remembered["named"].items():
            if source in self._named and source != FIXED:
                told = map(recalled_backend, named)
                self._named[source] = {each.url: each for each in told}
        self._deleted = {url: set(each) for url, each in remembered["deleted"].items()}
        self._weights = {url: _Reweighed(*each) for url, each in remembered["weights"].items()}

    def _weighed(self, backend: Backend) -> Backend:
        set_by_hand = self._weights.get(backend.url)
        return backend if set_by_hand is None else replace(backend, weight=set_by_hand.weight)

    def _said_weight(self, url: str) -> float | None:
        """What the first who is heard says; None if nobody names it."""
        for source, named in self._named.items():
            if url in named and source not in self._deleted.get(url, ()):
                return named[url].weight
        return None

    def _forget_weights(self) -> None:
        """Those that were set where something else was said."""
        self._weights = {
            url: each for url, each in self._weights.items() if self._said_weight(url) == each.said
        }

    def _compare(self, source: str, backend: Backend) -> None:
        """Say whose settings count, where two differ."""
        for other, named in self._named.items():
            told = named.get(backend.url)
            if other != source and told is not None and told != backend:
                order = list(self._named)
                first = min(source, other, key=order.index)
                _log.warning(
                    "%s is told by %s and by %s with other settings: those of %s count",
                    backend.url, source, other, first,
                )  # fmt: skip


def recalled_backend(fields: Mapping[str, Any]) -> Backend:
    """The backend that `dataclasses.asdict` made these of."""
    kind = fields["kind"]
    return Backend(**{**fields, "kind": None if kind is None else Kind(kind)})
