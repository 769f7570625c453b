"""
Which experts a token sees, and with what weights.

    scores     softmax over all experts, or sigmoid of each                         [T, E]
    choice     scores, plus a bias that balances the experts' load, if there is one
    groups     those of the best groups of experts only, if they are in groups
    weights    scores of the chosen ones, made to add up to 1 if the model says so, times scale

Softmax over all, the best chosen: Shazeer et al. 2017, Jiang et al. 2024.  Groups: DeepSeek-AI
2024 (V2), section 2.2.2, where a group is as good as its best expert.  Sigmoid, bias, and groups
as good as their two best: DeepSeek-AI 2024 (V3), section 2.1.2.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn.functional import linear

from workers.model.config import ExpertGroups, ExpertsConfig
from workers.model.shard import Place

if TYPE_CHECKING:
    from workers.model.feed_forward import Weights

_NEARLY_ZERO = 1e-20


class ExpertRouter(torch.nn.Module):
    """Whole on every rank, so that all choose alike."""

    def __init__(self, hidden_size: int, config: ExpertsConfig, weight: Weights) -> None:
        super().__init__()
        self._config = config
        self.weight = weight(config.num_experts, hidden_size)
        if config.is_routed_in_float32:
            self.weight = _in_float32(self.weight, config.num_experts, hidden_size)
        self.choice_bias: torch.nn.Parameter | None = None
        if config.has_choice_bias:
            # Differences that decide are lost in bfloat16.
            self.choice_bias = _in_float32(self.weight, config.num_experts)

    def places(self) -> dict[str, Place]:
        """Return where each weight is kept, by its name below `mlp.gate`."""
        found = {"weight": Place(self.weight)}
        if self.choice_bias is not None:
            found["e_score_correction_bias"] = Place(self.choice_bias)
        return found

    def forward(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return for each row [T, hidden_size] its experts and their weights, [T, num_chosen]."""
        config = self._config
        raw = linear(rows.to(self.weight.dtype), self.weight).float()
        scores = raw.sigmoid() if config.is_sigmoid else raw.softmax(dim=-1)
        choice = scores if self.choice_bias is None else scores + self.choice_bias
        if config.groups is not None:
            choice = _in_best_groups(choice, config.groups)
        chosen = torch.topk(choice, config.num_chosen, dim=-1).indices
        weights = scores.gather(1, chosen)
        if config.normalises:
            weights = weights / (weights.sum(dim=-1, keepdim=True) + _NEARLY_ZERO)
        return chosen, (weights * config.scale).to(rows.dtype)


def _in_float32(like: torch.Tensor, *shape: int) -> torch.nn.Parameter:
    return torch.nn.Parameter(like.new_empty(shape, dtype=torch.float32), requires_grad=False)


def _in_best_groups(choice: torch.Tensor, groups: ExpertGroups) -> torch.Tensor:
    """Return choice [T, E], -inf where an expert is in none of the best groups."""
    each = choice.shape[1] // groups.num_groups
    by_group = choice.view(len(choice), groups.num_groups, each)
    of_groups = by_group.topk(groups.num_best, dim=-1).values.sum(dim=-1)
    best = of_groups.topk(groups.num_chosen, dim=-1).indices
    is_left_out = torch.ones_like(of_groups, dtype=torch.bool).scatter_(1, best, False)
    return by_group.masked_fill(is_left_out[..., None], float("-inf")).view_as(choice)
