"""The source that is a file: what of it is told, and when."""

import asyncio
import logging
import os

import pytest

from router.backends.backend import Backend
from router.backends.file_source import FileSource
from router.backends.lacks import Lacks
from tests.router.fakes import soon, until

pytestmark = pytest.mark.anyio
A, B = Backend("a", 80), Backend("b", 80)


class Watched:
    """A source, and what it has told."""

    def __init__(self, path):
        self.path = path
        self.told = []
        self.pauses = []
        self.source = FileSource(path, Lacks({}), self._sleep)

    async def _sleep(self, pause_s):
        self.pauses.append(pause_s)
        await asyncio.sleep(0)

    async def looked(self, times=2):
        for _ in range(times):
            await soon(self.source.look(self.told.append))
        return self.told

    def write(self, text):
        self.path.write_text(text)


async def test_events_that_cannot_be_used_refuse_a_change(tmp_path, caplog):
    """
    While the instance runs, too: what was told stands.
    """
    path = tmp_path / "b.yaml"
    source = Watched(path)
    source.write("backends: ['http://a']")
    await source.looked()
    source.write("backends: ['http://a', 'http://b,kv-events=5557']")

    assert await source.looked() == [(A,)]
    assert "entry 2: kv-events: names pages by token ids: say --tokenizer-path" in caplog.text


@pytest.fixture
def watched(tmp_path):
    built = Watched(tmp_path / "b.yaml")
    built.write("backends: [http://a]")
    return built


async def test_what_a_file_says_is_told_once_and_again_when_it_changes(watched):
    """
    Not again when it is only written.
    """
    assert await watched.looked(5) == [(A,)]
    watched.write("backends: [http://a]")
    assert await watched.looked(5) == [(A,)]
    watched.write("backends: [http://a, http://b]")
    assert await watched.looked(5) == [(A,), (A, B)]
    watched.write("backends: []")
    assert await watched.looked(5) == [(A,), (A, B), ()]


async def test_a_file_that_is_being_written_is_not_taken(watched):
    """
    Half of a list is a list, too: it counts once two looks have found the same.
    """
    await watched.looked()
    for text in ("backends:", "backends: []", "backends: [http://b]"):
        watched.write(text)
        assert await watched.looked(1) == [(A,)]

    assert await watched.looked(1) == [(A,), (B,)]
    assert watched.source.standing.why_bad is None


@pytest.mark.parametrize("text", ["", "backends:", "backends: [7]", None])
async def test_what_stood_stands_while_a_file_is_bad_or_missing(watched, text, caplog):
    """
    The log says why, once for each content; and that it is good again.
    """
    caplog.set_level(logging.INFO, "levelhead.backends")
    await watched.looked()
    if text is None:
        watched.path.unlink()
    else:
        watched.write(text)
    assert await watched.looked(5) == [(A,)]
    assert not watched.source.standing.is_good
    watched.write("backends: [http://a]")
    await watched.looked()

    told, bad, good = caplog.messages
    assert told.endswith("tells of 1 backends: new are http://a:80, gone are none")
    assert bad.startswith(f"--backends-file {watched.path}: ")
    assert bad.endswith(": the 1 stand")
    assert good.endswith("is good again, with the same 1 backends")
    assert watched.told == [(A,)]


async def test_another_bad_content_is_told_even_for_the_same_reason(watched, caplog):
    """
    Who has tried to mend it wants to know that it was read.
    """
    for text in ("backends: [7] # 1", "backends: [7] # 2"):
        watched.write(text)
        await watched.looked(3)

    assert len(caplog.messages) == 2
    assert caplog.messages[0].endswith("or a mapping: nothing is known yet")


async def test_a_file_that_is_replaced_is_read_anew(watched, tmp_path):
    """
    By another one of the same length and time of writing.
    """
    await watched.looked()
    written = watched.path.stat()
    other = tmp_path / "other"
    other.write_text("backends: [http://b]")
    os.utime(other, ns=(written.st_atime_ns, written.st_mtime_ns))
    other.replace(watched.path)

    assert await watched.looked() == [(A,), (B,)]


async def test_the_swap_of_links_of_a_config_map_is_seen(tmp_path):
    """
    file -> ..data/file, ..data -> ..1: Kubernetes makes ..2 and renames a new link over ..data.
    """
    for number, host in ((1, "a"), (2, "b")):
        (tmp_path / f"..{number}").mkdir()
        (tmp_path / f"..{number}" / "b.yaml").write_text(f"backends: [http://{host}]")
    (tmp_path / "..data").symlink_to("..1")
    (tmp_path / "b.yaml").symlink_to("..data/b.yaml")
    watched = Watched(tmp_path / "b.yaml")
    await watched.looked()
    (tmp_path / "..new").symlink_to("..2")
    (tmp_path / "..new").replace(tmp_path / "..data")

    assert await watched.looked() == [(A,), (B,)]


async def test_a_file_is_looked_at_every_second_and_sooner_while_it_changes(watched):
    """
    For ever, also while it is missing.
    """
    keeping = asyncio.create_task(watched.source.keep(watched.told.append))
    await until(lambda: len(watched.pauses) > 4)
    watched.path.unlink()
    await until(lambda: watched.source.standing.why_bad is not None)
    watched.write("backends: [http://b]")
    await until(lambda: watched.told == [(A,), (B,)])
    keeping.cancel()

    assert watched.pauses[:4] == [0.25, 1.0, 1.0, 1.0]
    assert set(watched.pauses) == {0.25, 1.0}
