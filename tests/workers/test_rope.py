import math

import pytest
import torch

from workers.model.rope import (
    FactorScaling,
    Llama3Scaling,
    YarnScaling,
    angles,
    inverse_frequencies,
    rotate,
    yarn_amplitude,
)


def turned(head, position, frequencies):
    return rotate(head, *angles(torch.tensor([position]), frequencies, torch.float32))


def test_products_depend_on_the_distance_alone():
    """
    A query and a key ten positions apart match the same wherever they stand.
    """
    query, key = torch.randn(2, 1, 1, 16, generator=torch.Generator().manual_seed(0))
    frequencies = inverse_frequencies(16, 10_000.0, None)

    products = [
        (turned(query, at + 10, frequencies) * turned(key, at, frequencies)).sum().item()
        for at in (0, 7, 1000)
    ]

    assert products == pytest.approx([products[0]] * 3, abs=1e-3)
    assert products[0] != pytest.approx((query * key).sum().item(), abs=1e-3)


def test_a_factor_divides_its_frequency():
    """
    As GGUF files store Llama 3's scaling, one factor for each pair.
    """
    plain = inverse_frequencies(4, 100.0, None)

    assert plain.tolist() == pytest.approx([1.0, 0.1])
    scaled = inverse_frequencies(4, 100.0, FactorScaling((1.0, 8.0)))
    assert scaled.tolist() == pytest.approx([1.0, 0.0125])


def test_llama3_stretches_long_wavelengths_only():
    """
    Short wavelengths stay, long ones grow by the factor, with a ramp between.
    """
    plain = inverse_frequencies(128, 500_000.0, None)
    ratio = plain / inverse_frequencies(128, 500_000.0, Llama3Scaling(8.0, 1.0, 4.0, 8192))

    assert ratio[0].item() == 1.0
    assert ratio[-1].item() == pytest.approx(8.0)
    assert (ratio.diff() >= -1e-5).all()
    assert ((ratio > 1.01) & (ratio < 7.99)).any()


def test_angles_are_exact_in_half_precision():
    """
    Position 1001 is no bfloat16; its angle is taken before rounding.
    """
    frequencies = inverse_frequencies(2, 10_000.0, None)

    cosine, sine = angles(torch.tensor([1001]), frequencies, torch.bfloat16)

    assert cosine.dtype == torch.bfloat16
    exact_cosine, exact_sine = math.cos(1001.0), math.sin(1001.0)
    assert cosine.flatten().tolist() == pytest.approx([exact_cosine] * 2, abs=4e-3)
    assert sine.flatten().tolist() == pytest.approx([-exact_sine, exact_sine], abs=4e-3)


def test_yarn_keeps_what_turns_often_and_divides_what_hardly_turns():
    """
    32 turns in the original length, and 1; a ramp between.
    """
    plain = inverse_frequencies(64, 10_000.0, None)
    ratio = plain / inverse_frequencies(64, 10_000.0, YarnScaling(40.0, 4096, 10_000.0))
    turns = 4096 * plain / (2 * math.pi)

    assert torch.allclose(ratio[turns > 40], torch.ones(1))
    assert torch.allclose(ratio[turns < 0.5], torch.full((1,), 40.0))
    assert (ratio.diff() >= -1e-5).all()


def test_yarn_sharpens_scores_of_longer_contexts_only():
    """
    By a tenth of the logarithm of how much longer they are.
    """
    assert yarn_amplitude(math.e) == pytest.approx(1.1)
    assert yarn_amplitude(math.e, weight=0.7) == pytest.approx(1.07)
    assert yarn_amplitude(1.0) == yarn_amplitude(0.5) == 1.0
