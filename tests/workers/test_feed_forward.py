"""Mixtures of experts, beside a loop over tokens that does what the formula says."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import silu

from workers.model.config import ExpertsConfig
from workers.model.errors import InconsistentConfig
from workers.model.expert_router import ExpertRouter
from workers.model.feed_forward import DenseFeedForward, MixtureOfExperts
from workers.model.shard import WHOLE, Shard

HIDDEN = 16


def parameter(*shape):
    return torch.nn.Parameter(torch.empty(shape), requires_grad=False)


def filled(module, weights=None, seed=3):
    """The module with those weights, by name; drawn at random for a whole one."""
    random = torch.Generator().manual_seed(seed)
    places = module.places()
    weights = weights or {
        name: torch.randn(place.shape, generator=random) for name, place in places.items()
    }
    for name, place in places.items():
        place.fill(weights[name])
    return weights


def dense_of(weights, prefix, row):
    gate = weights[f"{prefix}gate_proj.weight"] @ row
    up = weights[f"{prefix}up_proj.weight"] @ row
    return weights[f"{prefix}down_proj.weight"] @ (silu(gate) * up)


def mixture_of(config, weights, row):
    """The formula, one token at a time."""
    scores = torch.softmax(weights["gate.weight"] @ row, dim=0)
    order = sorted(range(config.num_experts), key=lambda e: -scores[e])[: config.num_chosen]
    total = sum(scores[e] for e in order) if config.normalises else 1.0
    output = torch.zeros(HIDDEN)
    for expert in order:
        share = config.scale * scores[expert] / total
        output += share * dense_of(weights, f"experts.{expert}.", row)
    if config.shared_intermediate_size:
        shared = dense_of(weights, "shared_expert.", row)
        if config.has_shared_gate:
            shared = shared * torch.sigmoid(weights["shared_expert_gate.weight"] @ row)
        output += shared
    return output


CONFIGS = [
    ExpertsConfig(5, 2, 12),
    ExpertsConfig(5, 2, 12, normalises=False, scale=2.5),
    ExpertsConfig(4, 1, 7, shared_intermediate_size=9, has_shared_gate=True),
    ExpertsConfig(6, 3, 8, shared_intermediate_size=11, normalises=False, scale=1.5),
]


@pytest.mark.parametrize("config", CONFIGS)
def test_each_token_has_what_the_formula_says(config):
    """
    Whatever the others of its batch are.
    """
    experts = MixtureOfExperts(HIDDEN, config, parameter)
    weights = filled(experts)
    rows = torch.randn(9, HIDDEN, generator=torch.Generator().manual_seed(1))

    expected = torch.stack([mixture_of(config, weights, row) for row in rows])

    assert torch.allclose(experts(rows), expected, atol=1e-4)
    assert experts(rows[:0]).shape == (0, HIDDEN)


@settings(max_examples=60)
@given(st.sampled_from(CONFIGS), st.integers(1, 7), st.booleans(), st.integers(0, 12))
def test_what_the_ranks_compute_adds_up_to_the_whole(config, size, is_expert_parallel, num_rows):
    """
    Sharded within experts or by experts, on more ranks than there are experts too.
    """
    config = ExpertsConfig(
        **{name: getattr(config, name) for name in config.__dataclass_fields__}
        | {"is_expert_parallel": is_expert_parallel}
    )
    whole = MixtureOfExperts(HIDDEN, config, parameter)
    weights = filled(whole)
    rows = torch.randn(num_rows, HIDDEN, generator=torch.Generator().manual_seed(num_rows))

    parts = [MixtureOfExperts(HIDDEN, config, parameter, Shard(r, size)) for r in range(size)]
    for part in parts:
        filled(part, weights)

    together = torch.stack([part(rows) for part in parts]).sum(0)
    assert torch.allclose(together, whole(rows), atol=1e-4)


@pytest.mark.parametrize("size", [1, 2, 3, 5, 8])
def test_a_dense_one_adds_up_too(size):
    """
    Of a size that does not go up, and with ranks that have nothing of it.
    """
    whole = DenseFeedForward(HIDDEN, 7, parameter)
    weights = filled(whole)
    rows = torch.randn(4, HIDDEN, generator=torch.Generator().manual_seed(2))

    parts = [DenseFeedForward(HIDDEN, 7, parameter, Shard(rank, size)) for rank in range(size)]
    for part in parts:
        filled(part, weights)

    assert torch.allclose(sum(part(rows) for part in parts), whole(rows), atol=1e-4)


@given(st.integers(0, 200), st.integers(1, 40))
def test_parts_are_contiguous_and_even(count, size):
    """
    Together they are everything once, in order, and none is more than one larger than another.
    """
    parts = [Shard(rank, size).of(count) for rank in range(size)]

    assert [each for part in parts for each in part] == list(range(count))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    assert WHOLE.of(count) == range(count)


@pytest.mark.parametrize("chosen", [0, 4])
def test_more_experts_than_there_are_cannot_be_chosen(chosen):
    """
    Nor none.
    """
    with pytest.raises(InconsistentConfig, match=f"{chosen} experts are chosen for each token"):
        ExpertsConfig(3, chosen, 8)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_scores_in_float32_choose_what_they_would_in_a_model_of_float32(dtype):
    """
    As DeepSeek's families have it: scores that differ little are alike once they are rounded.
    """
    config = ExpertsConfig(64, 4, 8, is_sigmoid=True, is_routed_in_float32=True)

    def half(*shape):
        return torch.nn.Parameter(torch.empty(shape, dtype=dtype), requires_grad=False)

    random = torch.Generator().manual_seed(5)
    weight = (0.1 * torch.randn(64, HIDDEN, generator=random)).to(dtype)
    rows = torch.randn(200, HIDDEN, generator=random).to(dtype)
    routers = [ExpertRouter(HIDDEN, config, weights) for weights in (half, parameter)]
    for router in routers:
        router.places()["weight"].fill(weight)

    (chosen, shares), (expected, _) = routers[0](rows), routers[1](rows.float())

    assert torch.equal(chosen, expected)
    assert shares.dtype is dtype
