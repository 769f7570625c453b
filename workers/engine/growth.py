"""
How much the running requests will still grow, as admission expects it.

Nobody knows how long an output gets, only how long it may get.  Admitting as if
all got as long as they may leaves most of the cache unused; admitting as if
none grew ends in retractions.  So the expected growth is a ratio of what is
left, as in SGLang:

    expected tokens of a request = tokens + ratio * min(output tokens left, MAX_GROWTH_TOKENS)

The ratio falls from INITIAL_RATIO to LEAST_RATIO in DECAY_STEPS steps without a
retraction.  After one it is at least what the running requests have shown:

    (output tokens so far + SPARE_STEPS for each) / (output tokens that they may have)

and when nothing runs it starts anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil

from workers.engine.request import Request

INITIAL_RATIO = 0.5
LEAST_RATIO = 0.1
DECAY_STEPS = 600
SPARE_STEPS = 20
"""Steps without a further retraction that the jump aims for."""
MAX_GROWTH_TOKENS = 2048
"""Few outputs get longer, and a request without a limit may have the whole context."""


class GrowthEstimate:
    """Owns the ratio."""

    def __init__(self, initial: float = INITIAL_RATIO, least: float = LEAST_RATIO) -> None:
        self.ratio = initial
        self._initial = initial
        self._least = min(least, initial)

    def expected_tokens(self, request: Request) -> int:
        """Tokens that the request is expected to hold in the end; one more at least, if any."""
        left = max(0, request.max_new_tokens - request.num_outputs)
        return request.num_tokens + ceil(self.ratio * min(left, MAX_GROWTH_TOKENS))

    def reset(self) -> None:
        """Start anew."""
        self.ratio = self._initial

    def decay(self) -> None:
        """Note a step without a retraction."""
        step = (self._initial - self._least) / DECAY_STEPS
        self.ratio = max(self._least, self.ratio - step)

    def jump(self, running: Sequence[Request]) -> None:
        """Note a retraction; running: those that are left."""
        outputs = sum(request.num_outputs + SPARE_STEPS for request in running)
        allowed = sum(request.max_new_tokens for request in running)
        self.ratio = max(self.ratio, min(1.0, outputs / max(1, allowed)))
