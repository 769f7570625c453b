"""
The feed-forward part of a decoder layer: one for all tokens, or a mixture of experts.

    dense      silu(x Wg) * (x Wu) Wd                                              (SwiGLU)
    experts    sum over the chosen e of  weight(x, e) * dense_e(x)   [+ shared(x)]

Which experts are chosen, and with what weights: workers.model.expert_router.  A shared
expert sees every token (Dai et al. 2024); where it has a gate, its output counts sigmoid(x g).

Parts may be sharded: each rank of `Shard.size` has a slice of every matrix, or some of the
experts, and what it computes are summands of the output.  A sum over the ranks is the
caller's to make.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch.nn.functional import linear, silu

from workers.model.config import ExpertsConfig
from workers.model.expert_router import ExpertRouter
from workers.model.projection import Projection
from workers.model.shard import WHOLE, Place, Shard


class Weights(Protocol):
    """Makes a parameter without values."""

    def __call__(self, *shape: int) -> torch.nn.Parameter:
        """Of that shape."""


class FeedForward(Protocol):
    """What a layer has after its attention."""

    def places(self) -> dict[str, Place]:
        """Return where each weight is kept, by its Hugging Face name below `mlp`."""

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        """Return this shard's summand of the output for rows, both [T, hidden_size]."""


class DenseFeedForward(torch.nn.Module):
    """One for all tokens.  shard: its part of intermediate_size."""

    def __init__(
        self, hidden_size: int, intermediate_size: int, weight: Weights, shard: Shard = WHOLE
    ) -> None:
        super().__init__()
        self._size, self._part = intermediate_size, shard.of(intermediate_size)
        inner = len(self._part)
        self.gate_up = Projection(weight(2 * inner, hidden_size))
        self.down = Projection(weight(hidden_size, inner))

    def places(self) -> dict[str, Place]:
        """Return where each weight is kept."""
        gate, up = self.gate_up.view().chunk(2)
        return {
            "gate_proj.weight": Place(gate, 0, self._part, self._size),
            "up_proj.weight": Place(up, 0, self._part, self._size),
            "down_proj.weight": Place(self.down.view(), 1, self._part, self._size),
        }

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Return this shard's summand."""
        gate, up = self.gate_up(rows).chunk(2, dim=-1)
        output: torch.Tensor = self.down(silu(gate) * up)
        return output


class MixtureOfExperts(torch.nn.Module):
    """
    Experts, of which each token sees num_chosen.

    shard: its part of every expert, or with `config.is_expert_parallel` its experts.
    """

    def __init__(
        self, hidden_size: int, config: ExpertsConfig, weight: Weights, shard: Shard = WHOLE
    ) -> None:
        super().__init__()
        self._config = config
        self._own = range(config.num_experts)
        each = shard
        if config.is_expert_parallel:
            self._own, each = shard.of(config.num_experts), WHOLE
        self.router = ExpertRouter(hidden_size, config, weight)
        self.experts = torch.nn.ModuleList(
            DenseFeedForward(hidden_size, config.intermediate_size, weight, each) for _ in self._own
        )
        self.shared: DenseFeedForward | None = None
        self.shared_gate: torch.nn.Parameter | None = None
        if config.shared_intermediate_size:
            size = config.shared_intermediate_size
            self.shared = DenseFeedForward(hidden_size, size, weight, shard)
            if config.has_shared_gate:
                self.shared_gate = weight(1, hidden_size)

    def places(self) -> dict[str, Place]:
        """Return where each weight is kept: nothing of those of others' experts."""
        found = {f"gate.{name}": at for name, at in self.router.places().items()}
        for number in set(range(self._config.num_experts)) - set(self._own):
            found |= {f"experts.{number}.{name}": at for name, at in self._nothing().items()}
        for number, expert in zip(self._own, self.experts, strict=True):
            assert isinstance(expert, DenseFeedForward)
            found |= {f"experts.{number}.{name}": at for name, at in expert.places().items()}
        if self.shared is not None:
            found |= {f"shared_expert.{name}": at for name, at in self.shared.places().items()}
        if self.shared_gate is not None:
            found["shared_expert_gate.weight"] = Place(self.shared_gate)
        return found

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Return this shard's summand."""
        chosen, weights = self.router(rows)
        output = torch.zeros_like(rows)
        for number, expert in zip(self._own, self.experts, strict=True):
            row, place = torch.where(chosen == number)
            if len(row):
                computed = expert(rows[row]) * weights[row, place, None]
                output.index_add_(0, row, computed)
        if self.shared is not None:
            output += self._shared(self.shared, rows)
        return output

    def _nothing(self) -> dict[str, Place]:
        like, size = self.router.weight, self._config.intermediate_size
        rows = Place(like.new_empty(0, like.shape[1]), 0, range(0), size)
        columns = Place(like.new_empty(like.shape[1], 0), 1, range(0), size)
        return {"gate_proj.weight": rows, "up_proj.weight": rows, "down_proj.weight": columns}

    def _shared(self, shared: DenseFeedForward, rows: torch.Tensor) -> torch.Tensor:
        computed: torch.Tensor = shared(rows)
        if self.shared_gate is None:
            return computed
        return computed * torch.sigmoid(linear(rows, self.shared_gate))
