"""What is said of `--tokenizer-path`, before anything starts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from router.backends.flags import SOURCES
from router.errors import ConfigError
from router.front_door.engine_tokenizer import EngineTokenizer

_FLAG = "--tokenizer-path"


def check_tokenizer(given: Mapping[str, Any]) -> None:
    """Raise ConfigError if it cannot be read, or is of no use."""
    folder = given["tokenizer_path"]
    if folder is not None:
        if not any(given[source] for source in SOURCES):
            raise ConfigError(_FLAG, folder, "is for --backend: workers of ours have the model's")
        try:
            EngineTokenizer(folder)
        except Exception as error:
            raise ConfigError(
                _FLAG, folder, f"must be a folder with tokenizer.json and chat template ({error})"
            ) from error
