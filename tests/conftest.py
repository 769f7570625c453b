"""Fixtures for every room's tests."""

from pathlib import Path

import pytest
from hypothesis import settings

from router.model_source import DEFAULT_MODEL, fetch
from router.options import parse_serve

# How long an example takes says how busy the machine is, and nothing about what is tested.
settings.register_profile("levelhead", deadline=None)
settings.load_profile("levelhead")


@pytest.fixture(scope="session")
def default_model() -> Path:
    """The default model's file, fetched on first use."""
    return fetch(DEFAULT_MODEL, parse_serve([]).cache_dir, lambda _: None)
