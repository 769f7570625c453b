import pytest
import torch
from torch.nn.functional import linear

from tests.workers.tiny import write_tiny_llama
from workers.model.checkpoint import open_checkpoint
from workers.model.llama import LlamaModel
from workers.model.projection import Projection, can_pack

CPU = torch.device("cpu")
needs_packing = pytest.mark.skipif(
    not can_pack(CPU, torch.bfloat16), reason="torch or processor has no bfloat16 kernels"
)


def parameter(*shape, dtype=torch.bfloat16):
    generator = torch.Generator().manual_seed(sum(shape))
    values = torch.randn(shape, generator=generator).to(dtype)
    return torch.nn.Parameter(values, requires_grad=False)


@needs_packing
@pytest.mark.parametrize("num_rows", [1, 2, 16, 65])
@pytest.mark.parametrize("has_bias", [False, True])
def test_a_packed_projection_gives_what_the_plain_one_gives(num_rows, has_bias):
    """
    For any number of rows, whatever number the tiles were laid out for.
    """
    weight, bias = parameter(160, 96), parameter(160) if has_bias else None
    rows = parameter(num_rows, 96)
    projection = Projection(weight, bias)
    expected = linear(rows, weight, bias)

    projection.pack()

    torch.testing.assert_close(projection(rows), expected, rtol=0.02, atol=0.1)


@needs_packing
def test_packing_gives_up_the_plain_weight():
    """
    A model is not held twice; and a weight that is gone cannot be viewed by mistake.
    """
    projection = Projection(parameter(32, 32))

    projection.pack()

    assert projection.weight is None
    with pytest.raises(AssertionError, match="packed"):
        projection.view()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_other_dtypes_stay_as_they_are(dtype):
    """
    In float32, results stay those of plain torch, bit for bit.
    """
    weight, rows = parameter(32, 48, dtype=dtype), parameter(3, 48, dtype=dtype)
    projection = Projection(weight)

    projection.pack()

    assert projection.weight is weight
    assert torch.equal(projection(rows), linear(rows, weight))


def test_nothing_is_packed_on_other_devices():
    """
    The kernels are for processors.
    """
    assert not can_pack(torch.device("meta"), torch.bfloat16)


@needs_packing
def test_a_loaded_model_is_packed_everywhere_and_keeps_its_embedding(tmp_path):
    """
    Tied weights too: the head is packed, and the embedding is still looked up.
    """
    checkpoint = open_checkpoint(write_tiny_llama(tmp_path))
    model = LlamaModel(checkpoint.config, CPU, torch.bfloat16)
    model.load(checkpoint)

    projections = [module for module in model.modules() if isinstance(module, Projection)]
    assert len(projections) == 4 * checkpoint.config.num_layers + 1
    assert all(projection.weight is None for projection in projections)
    assert model.embedding.shape == (checkpoint.config.vocab_size, checkpoint.config.hidden_size)
