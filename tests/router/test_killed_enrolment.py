"""What a later life of the control plane makes of what an earlier one has saved."""

import pytest

from router.errors import EnrolmentBroken
from tests.router.fakes import turns
from tests.router.hotel import Killed, hotel

pytestmark = pytest.mark.anyio
B = "http://b:1,kind=llamacpp"


async def test_who_is_wanted_again_serves_though_the_table_was_never_told_so():
    """
    The control plane died between saving and publishing; an operator's drain stands.
    """
    async with hotel("a") as site:
        await site.run()
        site.engines.up["b"] = "m"
        site.source.tells(B)
        await site.shows((0, "a", "ready"), (1, "b", "ready"))
        site.has_open(1, 1)
        site.source.tells()
        await site.operator.post("/admin/groups/0/drain")
        site.table.is_deadly = True
        with pytest.raises(Killed):
            site.source.tells(B)
        await site.kill()
        assert site.rows == [(0, "a", "draining"), (1, "b", "draining")]

        site.open()
        await site.run()
        await site.shows((0, "a", "draining"), (1, "b", "ready"))

        await site.operator.post("/admin/groups/1/drain")
        await site.kill()
        site.open()
        await site.run()
        await turns(20)
        assert site.rows == [(0, "a", "draining"), (1, "b", "draining")]


async def test_a_later_life_that_changes_nothing_writes_nothing():
    """
    Where there is no room to write, it is no reason to have no control plane.
    """
    async with hotel("a") as site:
        await site.run()
        await site.shows((0, "a", "ready"))
        await site.kill()
        saved = site.saved
        written = saved.stat().st_mtime_ns, saved.stat().st_ino

        site.open()

        assert (saved.stat().st_mtime_ns, saved.stat().st_ino) == written


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"named": {}}', b'{"named": 5}'])
async def test_what_was_saved_and_cannot_be_read_is_named(content):
    """
    To begin anew would give slots and epochs again that are in use.
    """
    async with hotel("a") as site:
        await site.run()
        await site.shows((0, "a", "ready"))
        await site.kill()
        good = site.saved.read_bytes()
        site.saved.write_bytes(content)

        with pytest.raises(EnrolmentBroken, match=f"{site.saved}: "):
            site.open()

        assert site.rows == [(0, "a", "ready")]
        site.saved.write_bytes(good)
        site.open()
