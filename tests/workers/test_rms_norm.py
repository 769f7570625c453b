import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from workers.model.rms_norm import rms_norm


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 1e-2), (torch.float16, 1e-2)]
)
@settings(deadline=None)
@given(scale=st.sampled_from([1e-2, 1.0, 7e3]), shift=st.sampled_from([0.0, 5.0]))
def test_it_is_the_norm_of_its_definition(dtype, tolerance, scale, shift):
    """
    Small and large rows, and rows whose mean is far from zero, which a layer norm would take away.
    """
    rng = torch.Generator().manual_seed(7)
    rows = ((torch.randn(3, 96, generator=rng) + shift) * scale).to(dtype)
    weight = torch.randn(96, generator=rng).to(dtype)

    normed = rms_norm(rows, weight, 1e-5)

    expected = functional.rms_norm(rows.double(), (96,), weight.double(), 1e-5)
    assert normed.dtype == dtype
    torch.testing.assert_close(normed.double(), expected, atol=tolerance, rtol=tolerance)
