from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.workers.tiny import write_tiny_llama
from workers.model.checkpoint import open_checkpoint
from workers.model.llama import LlamaModel
from workers.model.text import TextCodec


@pytest.fixture(scope="session", autouse=True)
def _two_threads():
    """Leave the machine's other cores alone, and make timings comparable."""
    torch.set_num_threads(2)


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hugging Face folder: 2 layers, dim 64, vocabulary 512, random weights, a chat template."""
    return write_tiny_llama(tmp_path_factory.mktemp("tiny-llama") / "model")


@pytest.fixture(scope="module")
def model(tiny_llama: Path) -> LlamaModel:
    """That Llama, loaded to compute in float32."""
    checkpoint = open_checkpoint(tiny_llama)
    loaded = LlamaModel(checkpoint.config, torch.device("cpu"), torch.float32)
    loaded.load(checkpoint)
    return loaded


@pytest.fixture(scope="module")
def codec(tiny_llama: Path) -> TextCodec:
    """Its tokenizer and chat template."""
    return open_checkpoint(tiny_llama).tokenizer()


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Steps this small lose more in a second thread than they gain."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
