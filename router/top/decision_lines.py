"""The line of a decision: when, where to, how long a prompt, and why."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from rich.text import Text

from router.top import words


def decision_line(decision: Mapping[str, Any], now_s: float) -> Text:
    """Of what `/admin/decisions` tells, what fits in a line; now_s by the instance's clock."""
    line = Text(f"{_age(decision.get('decided_at'), now_s):>10}  ", "dim")
    line.append(f"group {words.plain(decision.get('dp_rank', '?')):<3}", "bold not dim")
    prompt, attempt = decision.get("prompt_tokens"), decision.get("attempt")
    if isinstance(prompt, int):
        line.append(f" {words.count(prompt):>6} tok", "not dim")
    if isinstance(attempt, int) and attempt > 1:
        line.append(f"  attempt {attempt}", "bold yellow not dim")
    return line.append(f"  {words.plain(decision.get('reason', ''))}", "not dim")


def _age(decided_at: object, now_s: float) -> str:
    try:
        at_s = datetime.fromisoformat(str(decided_at)).timestamp()
    except ValueError:
        return ""
    return f"{words.seconds(max(0.0, now_s - at_s))} ago"
