"""
What became of a request's prompt tokens, each of them counted once.

    tokens   |=============================|---------|
                  reached: found or           not yet
                  computed at some time

Tokens beyond what was reached are new: they were found in the cache or they
are computed for the first time.  A retraction does not move the mark back.  So
what is found again below it counts for nothing, and what is computed again
below it counts as recomputed only, whatever happens in between and however
often.  When the request has ended, cached + computed == prompt.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Account:
    """
    The token account of one request.

    num_cached, num_computed: prompt tokens, by what happened to them first.
    num_recomputed: tokens of prompt and output that were computed again.
    num_reached: leading tokens that were found or computed at some time.
    """

    num_prompt: int
    num_cached: int = 0
    num_computed: int = 0
    num_recomputed: int = 0
    num_retractions: int = 0
    num_reached: int = 0

    def found(self, num_tokens: int) -> None:
        """Note that the first num_tokens were found in the cache."""
        self.num_cached += self._new_prompt_tokens(num_tokens)
        self.num_reached = max(self.num_reached, num_tokens)

    def computed(self, start: int, end: int) -> None:
        """Note that the tokens at start .. end - 1 were computed; start is at most num_reached."""
        self.num_recomputed += max(0, min(end, self.num_reached) - start)
        self.num_computed += self._new_prompt_tokens(end)
        self.num_reached = max(self.num_reached, end)

    def check_complete(self) -> None:
        """Raise AssertionError unless every prompt token is accounted for."""
        assert self.num_cached + self.num_computed == self.num_prompt, self

    def _new_prompt_tokens(self, end: int) -> int:
        return max(0, min(end, self.num_prompt) - min(self.num_reached, self.num_prompt))
