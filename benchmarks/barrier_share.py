"""
What an instance's metrics say of its barrier between two scrapes: pure.

    idle share   of a group: time that it waited for others, over time of steps
    token ratio  tokens of the steps' largest groups, over those of level groups
"""

from __future__ import annotations

from typing import NamedTuple

from prometheus_client.parser import text_string_to_metric_families

_PREFIX = "levelhead_dp_attention_"


class Scrape(NamedTuple):
    """Sums since the start, by group where they are a group's."""

    waited_s: dict[str, float]
    step_s: dict[str, float]
    tokens: dict[str, float]
    max_tokens: float
    steps: float

    @classmethod
    def of(cls, text: str) -> Scrape:
        """Raises ValueError if there are no such metrics: the ranks do not step together."""
        found: dict[str, dict[str, float]] = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                if sample.name.startswith(_PREFIX) and "le" not in sample.labels:
                    name = sample.name.removeprefix(_PREFIX)
                    found.setdefault(name, {})[sample.labels.get("group", "")] = sample.value
        try:
            return cls(
                found["sync_wait_seconds_sum"],
                found["step_seconds_total"],
                found["tokens_total"],
                found["max_tokens_total"][""],
                max(found["steps_total"].values()),
            )
        except KeyError as error:
            raise ValueError(f"no metric {_PREFIX}{error.args[0]}") from None


class Share(NamedTuple):
    """Of a window."""

    idle: dict[str, float]
    token_ratio: float
    num_steps: float
    mean_step_ms: float

    @classmethod
    def between(cls, before: Scrape, after: Scrape) -> Share:
        """Of the steps between two scrapes; ValueError if there was none."""
        num_steps = after.steps - before.steps
        if num_steps <= 0:
            raise ValueError("no step between two scrapes")
        step_s = {group: s - before.step_s[group] for group, s in after.step_s.items()}
        waited_s = {group: s - before.waited_s[group] for group, s in after.waited_s.items()}
        tokens = sum(after.tokens.values()) - sum(before.tokens.values())
        largest = after.max_tokens - before.max_tokens
        return cls(
            {group: waited_s[group] / step_s[group] for group in step_s},
            largest * len(after.tokens) / tokens,
            num_steps,
            1e3 * max(step_s.values()) / num_steps,
        )
