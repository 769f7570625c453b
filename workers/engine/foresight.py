"""
What the next step will be, as far as that can be told while a step is computed.

Most steps are followed by one in which whoever has just got a token gets the
next one.  That one's tensors do not depend on which tokens those are: only
the token ids themselves are missing.  So they are made while the step is
computed, and used if the plan turns out to be the one foreseen, to the page;
if not (somebody stopped, was aborted, or was admitted), they are made anew.

Nothing but pages is decided here.  A request that needs a page for its next
token is given a free one now instead of with the next plan, which gives to
decodes first, in the same order, and finds it there.  If the request ends
instead, its pages are free again before the next plan.  So with or without
foresight the plans are the same, and only the numbers of their pages differ.
"""

from __future__ import annotations

from collections.abc import Sequence

from workers.engine.page_tables import PageTables
from workers.engine.plan import Chunk, Plan
from workers.engine.request import Request


def foresee(plan: Plan, running: Sequence[Request], tables: PageTables) -> list[Chunk]:
    """
    Return the decodes that follow the plan if nobody stops; none if there is to be a prefill.

    Each starts at a token that its request has not got yet.
    """
    sampling = {chunk.request.request_id for chunk in plan.chunks if chunk.samples}
    if any(request.request_id not in sampling for request in running):
        return []
    lasting = [request for request in running if request.num_outputs + 1 < request.max_new_tokens]
    if not all(tables.grow_freely(request, request.num_tokens + 1) for request in lasting):
        return []
    return [Chunk(request, request.num_tokens, 1, tables.pages(request)) for request in lasting]
