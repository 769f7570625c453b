"""The line of a decision: when, who, where to, and why."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.text import Text

from router.top import words


def decision_line(decision: Mapping[str, Any], now_s: float) -> Text:
    """Of what is told, what fits in a line; what is not told is left out."""
    at_s, rank = decision.get("timestamp"), decision.get("dp_rank")
    age = f"{max(0.0, now_s - at_s):.1f}s ago" if isinstance(at_s, int | float) else ""
    line = Text(f"  {age:>10}  ", "dim")
    line.append(f"group {words.plain(rank)}", "bold not dim")
    for name in ("reason", "method", "dp_balance_id"):
        if name in decision:
            line.append(f"  {words.plain(decision[name])}", "not dim")
    return line
