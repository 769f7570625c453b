"""
Which backends serve which models, by the group table: who may get a request that names one.

    a name that is                 goes to
    on somebody's list             groups that list it, and those whose models are not known;
                                   a 404 of one of these is not believed: the next one is asked
    on no list                     groups that may serve it all the same; with several engines
                                   and none that may: 404

With one engine every request goes to it.  A name may be served though it is on no list where the
list is not known, and by SGLang, which reads a model's name only in `/v1/responses`; there
`listed:adapter` asks for an adapter of the model that is listed.  What is listed by an engine
that can take no request now is served, only not now: 503.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from router.backends.backend import Kind
from router.errors import ModelUnavailable, NoGroup, UnknownModel
from router.front_door.upstream import Address
from shm.group_table import GroupEntry

_MAX_TOLD = 64  # names or groups in a refusal


class ServedModels:
    """Made anew with each table."""

    def __init__(self, rows: Sequence[GroupEntry] = ()) -> None:
        self._rows = rows
        self.bases = frozenset(row.models[0] for row in rows if row.models)
        """Of the lists that engines tell: what they were started with, before any adapter."""
        self._has_several = len({Address.of(row) for row in rows}) > 1
        self._names = sorted({name for row in rows for name in row.models})
        self._without = {
            name: [row.dp_rank for row in rows if row.models and name not in row.models]
            for name in self._names
        }
        self._strict = [
            row.dp_rank for row in rows if row.models and row.engine != Kind.SGLANG.value
        ]

    def is_guess(self, model: object, dp_rank: int) -> bool:
        """Whether some group lists that model, and this one may have it or not."""
        listed = self._listed(model) if isinstance(model, str) else None
        having = [row.dp_rank for row in self._rows if listed in row.models]
        return bool(having) and dp_rank not in having

    def groups_without(self, model: object) -> Collection[int]:
        """
        Those that a request for a model of that name had better not go to.

        Nobody if it is no name at all.  Raises UnknownModel if nobody may serve it.
        """
        if not isinstance(model, str) or not self._has_several:
            return ()
        listed = self._listed(model)
        if listed is not None:
            return self._without[listed]
        if len(self._strict) < len(self._rows):
            return self._strict
        raise UnknownModel(
            f"the model {model!r} does not exist; there are {_told(self._names)}", "model"
        )

    def is_base(self, model: object) -> bool:
        """
        Whether that name asks for what an engine was started with, as far as lists tell.

        No name does.  `listed:adapter`, and whatever is on no list, may be an adapter's.
        """
        if not model or not self.bases:
            return True
        return isinstance(model, str) and model in self.bases

    def unavailable(self, model: object, error: NoGroup) -> NoGroup:
        """What to say if no group takes a request that names that model."""
        listed = self._listed(model) if isinstance(model, str) else None
        if listed is None:
            return error
        having = [f"{row.dp_rank} ({row.state})" for row in self._rows if listed in row.models]
        return ModelUnavailable(
            f"the model {model!r} is served by DP groups {_told(having)}; none of them, nor any "
            "whose models are not known, can take a request now",
            "model",
        )

    def _listed(self, model: str) -> str | None:
        """The name that it is listed by; None if it is on no list."""
        if model in self._without:
            return model
        if ":" not in model:
            return None
        bases = [name for name in self._names if model.startswith(f"{name}:")]
        return max(bases, key=len, default=None)


def _told(what: Sequence[str]) -> str:
    more = f" and {len(what) - _MAX_TOLD} more" if len(what) > _MAX_TOLD else ""
    return ", ".join(what[:_MAX_TOLD]) + more
