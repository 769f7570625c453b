"""
What the requests that have left a group amounted to, since it started.

The one owner of the sum is the scheduler, which adds an account where its
request leaves, whatever the reason: so nothing is added twice, and a request
that was retracted counts as one that was not, but for what was recomputed.  Of
an aborted or failed request, prompt tokens that were never reached are in
prompt_tokens alone; without such requests cached + computed == prompt.

Totals do not change, they are replaced: whoever has one, in whatever thread,
has figures of one instant.
"""

from __future__ import annotations

from typing import NamedTuple

from workers.engine.account import Account


class Totals(NamedTuple):
    """
    Sums over requests that have left; each only grows.

    cached_tokens, computed_tokens: of prompts, by what happened to them first.
    recomputed_tokens: of prompts and outputs, computed again after a retraction.
    """

    prompt_tokens: int = 0
    cached_tokens: int = 0
    computed_tokens: int = 0
    recomputed_tokens: int = 0
    output_tokens: int = 0
    retractions: int = 0

    def plus(self, account: Account, num_outputs: int) -> Totals:
        """Return these and one request's."""
        return Totals(
            self.prompt_tokens + account.num_prompt,
            self.cached_tokens + account.num_cached,
            self.computed_tokens + account.num_computed,
            self.recomputed_tokens + account.num_recomputed,
            self.output_tokens + num_outputs,
            self.retractions + account.num_retractions,
        )
