from pathlib import Path

import pytest

from tests.workers.tiny import write_tiny_llama


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hugging Face folder with a tiny random Llama."""
    return write_tiny_llama(tmp_path_factory.mktemp("tiny-llama") / "model")
