"""Where the Prometheus of `make check-dashboard` comes from."""

import os

import pytest

from tests.deploy.live.prometheus import NotFound, find


@pytest.fixture
def nothing_on_path(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))


def program(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return str(path)


def test_one_on_the_path_is_taken_before_one_that_was_unpacked(nothing_on_path, tmp_path):
    """
    Whoever installed one wants that one.
    """
    unpacked = program(tmp_path / "here" / "usr" / "bin" / "prometheus")
    assert find(folder=tmp_path / "here") == unpacked

    installed = program(tmp_path / "prometheus")
    assert find(folder=tmp_path / "here") == installed


def test_where_there_is_none_and_none_can_be_had_it_says_what_is_missing(nothing_on_path, tmp_path):
    """
    Instead of an error in the middle.
    """
    with pytest.raises(NotFound, match="without `apt-get` none can be unpacked"):
        find(folder=tmp_path / "none")
    with pytest.raises(NotFound, match="install Debian's package prometheus"):
        find(folder=tmp_path / "none", fetch=False)


def test_a_package_that_cannot_be_downloaded_is_told_with_the_reason(nothing_on_path, tmp_path):
    """
    The last line that the tool said.
    """
    program(tmp_path / "dpkg-deb")
    tool = program(tmp_path / "apt-get")
    with open(tool, "a") as script:
        script.write("echo 'E: first' >&2; echo 'E: no such package' >&2; exit 100\n")

    with pytest.raises(NotFound, match="E: no such package; install the package"):
        find(folder=tmp_path / "none")
    assert not os.path.exists(tmp_path / "none")
