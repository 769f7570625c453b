"""The gather before each pass, in which all ranks exchange one row each."""

from __future__ import annotations

import torch

from workers.lockstep.row import StepRow
from workers.model.row_exchange import Collectives


def gather_rows(ranks: Collectives, own: StepRow, num_front_doors: int) -> list[StepRow]:
    """Return every rank's row, in their order; all get the same.  Raises RankLost."""
    words = torch.tensor(own.to_words(num_front_doors), dtype=torch.int64)
    gathered = words.new_empty(ranks.size * len(words))
    ranks.all_gather(gathered, words)
    return [StepRow.from_words(each) for each in gathered.view(ranks.size, -1).tolist()]
