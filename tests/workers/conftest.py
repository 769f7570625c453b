from pathlib import Path

import pytest
import torch

from tests.workers.tiny import write_tiny_llama


@pytest.fixture(scope="session", autouse=True)
def _two_threads():
    """Leave the machine's other cores alone, and make timings comparable."""
    torch.set_num_threads(2)


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hugging Face folder: 2 layers, dim 64, vocabulary 512, random weights, a chat template."""
    return write_tiny_llama(tmp_path_factory.mktemp("tiny-llama") / "model")
