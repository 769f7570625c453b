"""What is said of `--tokenizer-path`, and of what needs it, before anything starts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from router.backends.kv_endpoint import why_not
from router.errors import ConfigError
from router.front_door.engine_tokenizer import EngineTokenizer

_FLAG = "--tokenizer-path"


def check_tokenizer(given: Mapping[str, Any]) -> None:
    """Raise ConfigError if it cannot be read, is of no use, or is missing."""
    folder = given["tokenizer_path"]
    if folder is not None:
        if not given["backends"]:
            raise ConfigError(_FLAG, folder, "is for --backend: workers of ours have the model's")
        try:
            EngineTokenizer(folder)
        except Exception as error:
            raise ConfigError(
                _FLAG, folder, f"must be a folder with tokenizer.json and chat template ({error})"
            ) from error
    for backend in given["backends"]:
        lacks = why_not(folder) if backend.kv_events else None
        if lacks is not None:
            raise ConfigError("--backend", f"{backend.url},kv-events={backend.kv_events}", lacks)
