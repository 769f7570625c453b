"""
Rotary position embedding: the frequencies, and the rotation itself.

Dimension i of a head's first half is paired with dimension i of its second
half ("rotate half", the layout of Hugging Face weights).  The pair turns by
position * inverse_frequency[i] radians.

Long-context models stretch the low frequencies.  A scaling is a value with one
method, `scale`, from the plain inverse frequencies to the model's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Llama3Scaling:
    """
    The scaling of Llama 3.1: long wavelengths by factor, short ones not, a ramp between.

    With w = 2*pi / inverse frequency and n = original_max_len: unchanged where
    w < n / high_freq_factor, divided by factor where w > n / low_freq_factor.
    """

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_len: int

    def scale(self, inverse_frequency: torch.Tensor) -> torch.Tensor:
        """Return the scaled inverse frequencies, [head_dim / 2] float32."""
        turns = self.original_max_len * inverse_frequency / (2 * math.pi)
        ramp = (turns - self.low_freq_factor) / (self.high_freq_factor - self.low_freq_factor)
        ramp = ramp.clamp(0.0, 1.0)
        return (1.0 - ramp) * inverse_frequency / self.factor + ramp * inverse_frequency


@dataclass(frozen=True)
class FactorScaling:
    """Each inverse frequency divided by its own factor, as GGUF files store it."""

    factors: tuple[float, ...]

    def scale(self, inverse_frequency: torch.Tensor) -> torch.Tensor:
        """Return the scaled inverse frequencies, [head_dim / 2] float32."""
        return inverse_frequency / torch.tensor(self.factors, dtype=torch.float32)


@dataclass(frozen=True)
class YarnScaling:
    """
    YaRN (Peng et al. 2023): few turns within original_max_len are divided by factor, many are not.

    A dimension that turns fast_turns times or more in original_max_len positions stays as it
    is, one with slow_turns or fewer is divided by factor, a ramp between.  theta: the base of
    the frequencies.  amplitude: what sine and cosine are multiplied with.
    """

    factor: float
    original_max_len: int
    theta: float
    amplitude: float = 1.0
    fast_turns: float = 32.0
    slow_turns: float = 1.0
    truncates: bool = True
    """Whether the ramp begins and ends at whole dimensions."""

    def scale(self, inverse_frequency: torch.Tensor) -> torch.Tensor:
        """Return the scaled inverse frequencies, [head_dim / 2] float32."""
        num_pairs = len(inverse_frequency)
        low, high = (
            self._dimension(self.fast_turns, num_pairs),
            self._dimension(self.slow_turns, num_pairs),
        )
        if self.truncates:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, 2 * num_pairs - 1)
        ramp = (torch.arange(num_pairs).float() - low) / max(high - low, 1e-3)
        ramp = ramp.clamp(0.0, 1.0)
        return (1.0 - ramp) * inverse_frequency + ramp * inverse_frequency / self.factor

    def _dimension(self, turns: float, num_pairs: int) -> float:
        """The pair that turns so many times within original_max_len."""
        wavelengths = self.original_max_len / (turns * 2 * math.pi)
        return num_pairs * math.log(wavelengths) / math.log(self.theta)


def yarn_amplitude(factor: float, weight: float = 1.0) -> float:
    """How much longer contexts sharpen scores: 0.1 * weight * ln(factor) + 1."""
    return 0.1 * weight * math.log(factor) + 1.0 if factor > 1 else 1.0


RopeScaling = Llama3Scaling | FactorScaling | YarnScaling


def inverse_frequencies(head_dim: int, theta: float, scaling: RopeScaling | None) -> torch.Tensor:
    """Return the inverse frequencies of a head, [head_dim / 2] float32 on the CPU."""
    exponents = torch.arange(0, head_dim, 2, dtype=torch.int64).float() / head_dim
    plain = 1.0 / (theta**exponents)
    return plain if scaling is None else scaling.scale(plain)


def angles(
    positions: torch.Tensor,
    inverse_frequency: torch.Tensor,
    dtype: torch.dtype,
    amplitude: float = 1.0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Return cosine and sine for positions [T], times amplitude, each [T, 1, head_dim] in dtype.

    The sine of the first half is negative, as `rotate` wants it.

    Computed in float32 whatever dtype is: bfloat16 cannot count past 256.
    """
    turn = positions.float()[:, None, None] * inverse_frequency
    cosine, sine = turn.cos(), turn.sin()
    if amplitude != 1.0:
        cosine, sine = cosine * amplitude, sine * amplitude
    cosine, sine = cosine.to(dtype), sine.to(dtype)
    return torch.cat((cosine, cosine), dim=-1), torch.cat((-sine, sine), dim=-1)


def rotate(heads: torch.Tensor, cosine: torch.Tensor, sine: torch.Tensor) -> torch.Tensor:
    """Return heads [T, num_heads, head_dim] turned by the angles of their positions."""
    partners = heads.roll(heads.shape[-1] // 2, dims=-1)
    return torch.addcmul(heads * cosine, partners, sine)
