"""Recent decisions, as `GET /admin/decisions` tells them; or why there are none."""

from __future__ import annotations

from typing import Any, NamedTuple


class Decisions(NamedTuple):
    """The newest first."""

    told: tuple[dict[str, Any], ...] = ()
    why_none: str | None = None
