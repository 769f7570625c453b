"""
Charges of own requests that have produced nothing yet, by group.

Books do not say how much of what they hold is still to be computed.  Where they stand in for
a group's figures, this does, for the own requests: else a group that is silent would
seem to compute prompts at once, and be sent those that others would have got.
"""

from __future__ import annotations

from balancer.assignment import Assignment


class Unstarted:
    """Belongs to one controller."""

    def __init__(self, num_groups: int) -> None:
        self.tokens = [0] * num_groups
        self._epochs = [0] * num_groups

    def begin_group(self, dp_rank: int, group_epoch: int) -> None:
        """What was sent to an earlier life of the group is gone."""
        self.tokens[dp_rank] = 0
        self._epochs[dp_rank] = group_epoch

    def add(self, assignment: Assignment) -> None:
        """It is dispatched."""
        self.tokens[assignment.dp_rank] += assignment.charge_tokens

    def start(self, assignment: Assignment) -> None:
        """It has produced a token, or ended; twice does no harm."""
        if not assignment.has_started:
            assignment.has_started = True
            if self._epochs[assignment.dp_rank] == assignment.group_epoch:
                self.tokens[assignment.dp_rank] -= assignment.charge_tokens
