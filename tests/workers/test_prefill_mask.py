"""Two ways to say what a prompt's new tokens see; which one is faster is not tested."""

from dataclasses import replace

import pytest
import torch

from tests.workers.test_llama import Run, load
from workers.model.prefill_mask import PrefillMask, choose_prefill_mask

TOKENS = [(k * 37) % 500 + 3 for k in range(40)]

pytestmark = pytest.mark.usefixtures("one_thread")


class OnCuda:
    """What is asked of a tensor that is on a GPU."""

    device = torch.device("cuda", 0)
    dtype = torch.bfloat16


@pytest.mark.parametrize("cuts", [(40,), (1, 39), (13, 20, 7), (16, 1, 23)])
def test_both_masks_give_the_same_logits(tiny_llama, cuts):
    """
    Prompts computed at once and in chunks, two side by side.
    """
    model = load(tiny_llama)
    written, named = Run(model), Run(model)
    named.kv = replace(named.kv, prefill_mask=PrefillMask.NAMED)

    start = 0
    for cut in cuts:
        chunks = [(name, TOKENS[start : start + cut]) for name in "ab"]
        torch.testing.assert_close(named.step(chunks), written.step(chunks), atol=1e-5, rtol=1e-5)
        start += cut


@pytest.mark.parametrize("mask", PrefillMask)
def test_a_whole_prompt_needs_no_mask(mask):
    """
    Plain causal attention does.
    """
    assert mask.make(7, 7, torch.zeros(1)) is None


def test_the_written_mask_is_causal_from_the_lower_right():
    """
    The last new token sees everything, each one before it one token less.
    """
    mask = PrefillMask.WRITTEN.make(3, 5, torch.zeros(1))

    assert (mask == 0).tolist() == [
        [True, True, True, False, False],
        [True, True, True, True, False],
        [True, True, True, True, True],
    ]


@pytest.mark.parametrize(
    ("can_use_flash", "expected"), [(True, PrefillMask.NAMED), (False, PrefillMask.WRITTEN)]
)
def test_on_a_gpu_it_depends_on_flash_attention(caplog, can_use_flash, expected):
    """
    And the log says which it is.
    """
    caplog.set_level("INFO")

    assert choose_prefill_mask(OnCuda(), lambda keys: can_use_flash) is expected
    assert expected.value in caplog.text


def test_on_a_cpu_nobody_asks_for_flash_attention():
    """
    Written out once for a batch is cheaper there than at every layer.
    """
    assert choose_prefill_mask(torch.zeros(1, 8)) is PrefillMask.WRITTEN
