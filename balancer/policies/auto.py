"""Auto."""

from __future__ import annotations

from typing import ClassVar

from balancer.policies.slack_affinity import SlackAffinity


class Auto(SlackAffinity):
    """
    Take what is best by default: today that is slack_affinity.

    It is min_step_cost where nothing is known of prefixes or sessions, and hardly trades
    level groups for cache hits where it is: at most 0.5 percent of a step, measured.  What
    it stands for may change with a release, as measurements do; choose a method by its own
    name to keep it.
    """

    name: ClassVar[str] = "auto"
