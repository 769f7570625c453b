import math
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.model.errors import BrokenLogits, InvalidSampling
from workers.model.sampling import Sampler, SamplingParams, draw_tokens, most_probable

GREEDY = SamplingParams(temperature=0)


def log_of(*probabilities):
    return torch.tensor([probabilities]).log()


def support(logits, params):
    """The tokens that a row may draw."""
    scaled = (logits - logits.amax(dim=-1, keepdim=True)) / params.temperature
    return most_probable(scaled, [params])[0].nonzero()[:, 0].tolist()


def slow_support(logits, params):
    """The same, straight from the definition, in Python floats."""
    scaled = [value / params.temperature for value in logits[0].double().tolist()]
    order = sorted(range(len(scaled)), key=lambda token: (-scaled[token], token))
    order = order[: params.top_k or None]
    weights = [math.exp(scaled[token] - scaled[order[0]]) for token in order]
    kept, mass = [], 0.0
    for token, weight in zip(order, weights, strict=True):
        enough = mass >= params.top_p * sum(weights) and params.top_p < 1
        if not enough and weight >= params.min_p:
            kept.append(token)
        mass += weight
    return sorted(kept or order[:1])


def test_greedy_is_argmax():
    """
    Temperature 0 takes the largest logit, the lowest id among equals, whatever the rest says.
    """
    logits = torch.tensor([[0.0, 3.0, 1.0], [5.0, 5.0, 5.0]])
    params = [SamplingParams(temperature=0, top_p=0.1, seed=3), GREEDY]

    assert Sampler(1).sample(logits, params, [4, 4], [9, 9]).token_ids == [1, 0]


@pytest.mark.parametrize("broken", [math.nan, math.inf])
@pytest.mark.parametrize("params", [GREEDY, SamplingParams()], ids=["greedy", "drawn"])
def test_logits_that_are_no_numbers_raise(params, broken):
    """
    A token drawn from them would look like any other.
    """
    logits = torch.tensor([[0.0, 1.0, 2.0], [0.0, broken, 1.0]])

    with pytest.raises(BrokenLogits, match="1 of 2 sequences"):
        Sampler(1).sample(logits, [params] * 2, [4, 4], [9, 9])


def test_a_top_k_of_any_size_keeps_all():
    """
    Beyond the vocabulary, and beyond 64 bits.
    """
    assert support(log_of(0.5, 0.3, 0.2), SamplingParams(top_k=10**30)) == [0, 1, 2]


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        (SamplingParams(), [0.5, 0.25, 0.15, 0.1]),
        (SamplingParams(temperature=0.5), [0.725, 0.181, 0.065, 0.029]),
        (SamplingParams(top_k=2), [2 / 3, 1 / 3, 0, 0]),
        (SamplingParams(top_p=0.76), [5 / 9, 2.5 / 9, 1.5 / 9, 0]),
        (SamplingParams(min_p=0.29), [5 / 9, 2.5 / 9, 1.5 / 9, 0]),
        (SamplingParams(top_k=3, top_p=0.6), [2 / 3, 1 / 3, 0, 0]),
    ],
    ids=["plain", "cold", "top-k", "top-p", "min-p", "both"],
)
def test_shares_are_the_probabilities_after_temperature_and_cuts(params, expected):
    """
    Over many positions each token's share matches its probability; a cut token never comes.
    """
    num_draws = 40_000
    logits = log_of(0.5, 0.25, 0.15, 0.1).expand(num_draws, -1)

    sampled = Sampler(5).sample(
        logits, [params] * num_draws, list(range(num_draws)), [77] * num_draws
    )

    shares = Counter(sampled.token_ids)
    for token, share in enumerate(expected):
        assert shares[token] / num_draws == pytest.approx(share, abs=0.01)
        assert shares[token] > 0 or share == 0


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.integers(-8, 8), min_size=1, max_size=40),
    st.integers(0, 45),
    st.sampled_from([0.05, 0.3, 0.71, 0.95, 0.999, 1.0]),
    st.sampled_from([0.0, 0.02, 0.4, 1.0]),
    st.sampled_from([0.31, 1.0, 1.7]),
)
def test_support_is_exactly_the_definition(logits, top_k, top_p, min_p, temperature):
    """
    With ties and every combination of cuts, the kept tokens are those of the definition.
    """
    params = SamplingParams(temperature, top_p=top_p, top_k=top_k, min_p=min_p)
    row = torch.tensor([logits], dtype=torch.float32) * 0.37

    assert support(row, params) == slow_support(row, params)


@pytest.mark.parametrize("top_p", [0.2, 0.6, 0.99])
def test_a_wide_support_is_not_cut_short(top_p):
    """
    A flat distribution over a large vocabulary keeps as many tokens as its mass needs.
    """
    logits = torch.randn(1, 9000, generator=torch.Generator().manual_seed(0)) * 0.01

    params = SamplingParams(top_p=top_p)
    assert support(logits, params) == slow_support(logits, params)
    assert len(support(logits, params)) > 1500


def test_top_k_of_one_is_argmax():
    """
    Also where the largest logit occurs twice, as rounding to bfloat16 makes it do.
    """
    logits = torch.tensor([[1.0, 2.0, 2.0]])
    params = [SamplingParams(top_k=1)]

    drawn = {Sampler(0).sample(logits, params, [p], [1]).token_ids[0] for p in range(50)}
    assert drawn == {1}


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_a_token_does_not_depend_on_the_rest_of_the_batch(data):
    """
    A row draws the same token alone as among rows with other parameters, in any order.
    """
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    logits = torch.randn(4, 700, generator=generator) * data.draw(st.sampled_from([0.1, 3.0]))
    wishes = st.builds(
        SamplingParams,
        temperature=st.sampled_from([0.0, 0.7, 1.5]),
        top_k=st.sampled_from([0, 1, 40, 600]),
        top_p=st.sampled_from([0.5, 0.98, 1.0]),
        min_p=st.sampled_from([0.0, 0.1]),
        seed=st.sampled_from([None, 3]),
        logprobs=st.sampled_from([None, 2]),
    )
    params = data.draw(st.lists(wishes, min_size=4, max_size=4))
    order = data.draw(st.permutations(range(4)))
    sampler, positions, seeds = Sampler(8), [5, 6, 7, 8], [1, 2, 3, 4]

    alone = [
        sampler.sample(logits[i : i + 1], [params[i]], [positions[i]], [seeds[i]]).token_ids[0]
        for i in order
    ]
    together = sampler.sample(
        logits[order],
        [params[i] for i in order],
        [positions[i] for i in order],
        [seeds[i] for i in order],
    )

    assert together.token_ids == alone


def draws(sampler, params, request_seed, num_positions=40):
    logits = torch.zeros(num_positions, 1000)
    positions = list(range(num_positions))
    return sampler.sample(
        logits, [params] * num_positions, positions, [request_seed] * num_positions
    ).token_ids


def test_a_request_with_a_seed_draws_the_same_on_every_worker():
    """
    The worker's own seed counts only for requests that have none.
    """
    seeded, unseeded = SamplingParams(seed=11), SamplingParams()

    assert draws(Sampler(1), seeded, 11) == draws(Sampler(2), seeded, 11)
    assert draws(Sampler(1), unseeded, 11) != draws(Sampler(2), unseeded, 11)
    assert draws(Sampler(1), unseeded, 11) == draws(Sampler(1), unseeded, 11)


def test_seeds_and_positions_draw_independently():
    """
    Neighbouring seeds and positions, and negative and large seeds, share no pattern.
    """
    columns = [draws(Sampler(0), SamplingParams(seed=s), s) for s in (0, 1, 2, -1, 2**63)]

    assert len(set(map(tuple, columns))) == len(columns)
    assert all(len(set(column)) > 30 for column in columns)


@pytest.mark.parametrize("draw", [0.0, 0.5, 1 - 2**-53])
def test_no_draw_falls_on_an_impossible_token(draw):
    """
    The ends of the line belong to tokens with weight, not to their excluded neighbours.
    """
    logits = torch.tensor([[-math.inf, 1.0, -math.inf, 1.0, -math.inf]])

    [token] = draw_tokens(logits, [SamplingParams()], [draw]).tolist()

    assert token == (1 if draw < 0.5 else 3)


def test_logprobs_are_the_models_own():
    """
    Before temperature and cuts, for the rows that ask, the best ones first.
    """
    logits = log_of(0.2, 0.5, 0.3).expand(3, -1)
    params = [
        SamplingParams(temperature=0, logprobs=2),
        GREEDY,
        SamplingParams(logprobs=0, top_k=1),
    ]

    first, second, third = Sampler(0).sample(logits, params, [0, 0, 0], [1, 2, 3]).logprobs

    assert second is None
    assert (first.token_id, first.logprob) == (1, pytest.approx(math.log(0.5)))
    assert first.top == ((1, pytest.approx(math.log(0.5))), (2, pytest.approx(math.log(0.3))))
    assert (third.token_id, third.top) == (1, ())


def test_no_rows_give_no_tokens():
    """
    A step of unfinished prefill chunks samples nothing.
    """
    assert Sampler(0).sample(torch.empty(0, 512), [], [], []).token_ids == []


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", -0.1),
        ("temperature", math.inf),
        ("temperature", math.nan),
        ("top_p", 0.0),
        ("top_p", 1.1),
        ("top_k", -1),
        ("min_p", 2.0),
        ("max_tokens", -1),
        ("logprobs", 21),
        ("stop", ("ok", "")),
    ],
)
def test_parameters_out_of_range_are_refused_by_name(field, value):
    """
    The error names the field, the value and what is allowed.
    """
    with pytest.raises(InvalidSampling, match=f"{field} is .*; it must be ") as caught:
        SamplingParams(**{field: value})

    assert (caught.value.field, repr(caught.value.value)) == (field, repr(value))
