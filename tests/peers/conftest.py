"""Engines of other people: started once for all tests of a site."""

import signal
from contextlib import ExitStack

import pytest

from tests.peers.install import INSTALLED, state_of
from tests.peers.site import SITES, Engines, open_site


def pytest_collection_modifyitems(items):
    for item in items:
        if "tests/peers/" in item.path.as_posix():
            item.add_marker(pytest.mark.peer)
            item.add_marker(pytest.mark.timeout(600))  # the first one waits for its engines


def _interrupted(number, frame):
    """Once: stopping engines takes seconds, and a second signal must not stop that."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.default_int_handler(number, frame)


@pytest.fixture(scope="session", name="engines")
def _engines(tmp_path_factory):
    """They have sessions of their own: who ends the tests by a signal must not leave them."""
    signal.signal(signal.SIGTERM, _interrupted)
    engines = Engines(tmp_path_factory.mktemp("engines"))
    yield engines
    engines.stop()


@pytest.fixture(scope="session", params=SITES)
def site(request, engines):
    """Engines that run, and a front door before them."""
    for name in ("model", *SITES[request.param]):
        if state_of(name) != INSTALLED:
            pytest.skip(f"{name} is not installed: {state_of(name)}")
    with ExitStack() as stack:
        yield open_site(stack, engines.wanted(SITES[request.param]))
