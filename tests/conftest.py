"""Fixtures for every room's tests."""

from pathlib import Path

import pytest

from router.model_source import DEFAULT_MODEL, fetch
from router.options import parse_serve


@pytest.fixture(scope="session")
def default_model() -> Path:
    """The default model's file, fetched on first use."""
    return fetch(DEFAULT_MODEL, parse_serve([]).cache_dir, lambda _: None)
