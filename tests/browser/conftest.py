import pytest

from tests.browser.chromium import Browser


@pytest.fixture(scope="module")
def browser():
    """One for all tests of a module, which open a page each."""
    with Browser() as opened:
        yield opened


@pytest.fixture
def page(browser):
    """An empty page, as the browser is by default, and with nothing remembered."""
    browser.open("about:blank")
    browser.prefer(color_scheme="light", reduced_motion="no-preference")
    browser.resize(1000, 900)
    yield browser
    assert browser.complaints() == []
