"""Backends come, serve, leave and come back, whatever becomes of the control plane meanwhile."""

from pathlib import Path

import pytest

from tests.router.asking import error_of
from tests.router.fakes import turns, until
from tests.router.hotel import hotel

pytestmark = pytest.mark.anyio
B, C = "http://b:1,kind=llamacpp", "http://c:1,kind=llamacpp"


async def test_who_comes_serves_and_who_goes_leaves_its_slot():
    """
    Nothing of ours is open there.
    """
    async with hotel("a") as site:
        await site.run()
        site.engines.up |= {"b": "m", "c": "m"}
        site.source.tells(B)
        await site.shows((0, "a", "ready"), (1, "b", "ready"))

        site.source.tells(C)
        await site.shows((0, "a", "ready"), (2, "c", "ready"))

        site.source.tells(B, C)
        await site.shows((0, "a", "ready"), (1, "b", "ready"), (2, "c", "ready"))
        epochs = [row.epoch for row in site.entries]
        assert len(set(epochs)) == 3
        assert max(epochs) == epochs[1]


async def test_an_instance_begins_with_nobody():
    """
    The table is one of nobody, and the first who comes has the first slot.
    """
    async with hotel() as site:
        assert site.rows == []
        await site.run()
        site.engines.up["b"] = "m"
        site.source.tells(B)

        await site.shows((0, "b", "ready"))


async def test_what_is_open_is_finished_before_a_slot_is_free():
    """
    And then somebody else may have it.
    """
    async with hotel("a", max_groups=1) as site:
        await site.run()
        await site.shows((0, "a", "ready"))
        site.has_open(0, 1)
        site.engines.up["b"] = "m"
        site.source.tells(B)
        await until(
            lambda: "no free slot" in site.enrolled.enrolment.newcomers.problem("http://b:1")
        )

        await site.operator.delete("/admin/groups/0")
        await turns(5)
        site.enrolled.enrolment.look()
        assert site.rows == [(0, "a", "draining")]
        old = site.entries[0].epoch
        site.has_open(0, 0)

        await site.shows((0, "b", "ready"))
        assert site.entries[0].epoch > old


async def test_after_the_drain_timeout_a_slot_is_freed_whatever_is_open(caplog):
    """
    It is on the books of whoever had it.
    """
    async with hotel("a", drain_timeout_s=30.0) as site:
        await site.run()
        await site.shows((0, "a", "ready"))
        site.has_open(0, 2)
        await site.operator.delete("/admin/groups/0")
        site.house.clock.now_s += 29.0
        site.enrolled.enrolment.look()
        assert site.rows == [(0, "a", "draining")]

        site.house.clock.now_s += 1.0
        site.enrolled.enrolment.look()

        assert site.rows == []
        assert "http://a:1 leaves with 2 requests open after 30 s" in caplog.text


async def test_who_comes_back_while_it_drains_serves_again_as_before():
    """
    In the same slot and epoch; it is asked before anybody trusts it.
    """
    async with hotel() as site:
        await site.run()
        site.engines.up["b"] = "m"
        site.source.tells(B)
        await site.shows((0, "b", "ready"))
        site.has_open(0, 1)
        epoch = site.entries[0].epoch
        site.source.tells()
        assert site.rows == [(0, "b", "draining")]

        site.source.tells(B)
        assert site.rows == [(0, "b", "suspect")]
        await site.shows((0, "b", "ready"))
        assert site.entries[0].epoch == epoch


async def test_a_newcomer_that_is_not_up_keeps_nobody_waiting_and_is_told_of_once(caplog):
    """
    It is asked until it is.
    """
    async with hotel() as site:
        await site.run()
        site.engines.up["c"] = "m"
        site.source.tells("http://b:1", C)
        await site.shows((0, "c", "ready"))
        await until(lambda: site.engines.asked.count("b/props") >= 2)
        assert caplog.text.count("http://b:1 does not answer") == 1

        site.engines.up["b"] = "m"
        await site.shows((0, "c", "ready"), (1, "b", "ready"))


async def test_another_weight_counts_at_once():
    """
    For all others: what they have counts more.
    """
    async with hotel("a") as site:
        await site.run()
        site.engines.up["b"] = "m"
        site.source.tells(B)
        await site.shows((0, "a", "ready"), (1, "b", "ready"))
        site.source.tells(B + ",weight=4")

        assert [row.load_factor for row in site.entries] == [4.0, 1.0]
        await site.operator.patch("/admin/groups/0", json={"weight": 8})
        assert [row.load_factor for row in site.entries] == [1.0, 2.0]
        assert site.rows == [(0, "a", "ready"), (1, "b", "ready")]


async def test_what_is_wanted_otherwise_goes_and_comes_anew():
    """
    Both have slots while the old one drains.
    """
    async with hotel() as site:
        await site.run()
        site.engines.up["b"] = "m"
        site.source.tells(B)
        await site.shows((0, "b", "ready"))
        site.has_open(0, 1)
        site.source.tells("http://b:1,kind=openai")

        await site.shows((0, "b", "draining"), (1, "b", "ready"))
        assert [row.engine for row in site.entries] == ["llamacpp", "openai"]
        site.has_open(0, 0)
        await site.shows((1, "b", "ready"))


@pytest.mark.parametrize("is_running", [True, False])
async def test_a_later_life_finds_everybody_where_they_were(is_running):
    """
    Killed at any moment; nobody is found out again, and nobody is anywhere else.
    """
    async with hotel("a") as site:
        await site.run()
        site.engines.up |= {"b": "m", "c": "m"}
        site.source.tells(B)
        await site.operator.post("/admin/groups", json={"backend": C})
        await site.shows((0, "a", "ready"), (1, "b", "ready"), (2, "c", "ready"))
        site.has_open(0, 1)
        await site.operator.delete("/admin/groups/0")
        before = site.entries

        for _ in range(3):
            await site.kill()
            site.engines.asked.clear()
            site.open()
            if is_running:
                await site.run()
                await turns(5)
            assert site.entries == before
            assert "b/props" not in site.engines.asked

        if not is_running:
            await site.run()
        site.has_open(0, 0)
        await site.shows((1, "b", "ready"), (2, "c", "ready"))
        assert sorted(w.sources[0] for w in site.enrolled.enrolment.roster.wanted.values()) == [
            "--source", "operator",
        ]  # fmt: skip


async def test_what_was_saved_and_not_published_is_made_good():
    """
    The control plane died between the two: the next life publishes it.
    """
    async with hotel("a") as site:
        site.engines.up["b"] = "m"
        await site.run()
        await site.shows((0, "a", "ready"))
        old = site.entries
        site.source.tells(B)
        await site.shows((0, "a", "ready"), (1, "b", "ready"))
        epoch = site.entries[1].epoch
        await site.kill()
        site.house.table.publish(old, 0)

        site.open()

        assert site.rows == [(0, "a", "ready"), (1, "b", "starting")]
        assert site.entries[1].epoch == epoch


async def test_what_is_done_for_an_engine_ends_when_it_leaves():
    """
    A hundred come and go: not one task is left, nor anything that they told.
    """
    async with hotel() as site:
        await site.run()
        await turns(3)
        before = site.num_tasks
        for number in range(100):
            host = f"h{number}"
            site.engines.up[host] = f"model-{number}"
            site.source.tells(f"http://{host}:1,kind=llamacpp")
            await until(lambda host=host: site.rows and site.rows[-1][1:] == (host, "ready"))
        site.source.tells()
        await site.shows()
        await until(lambda: site.num_tasks == before)

        enrolled = site.enrolled
        assert enrolled.models.all() == []
        assert enrolled.collector.beyond == {}
        assert site.loads.snapshot() is None or site.loads.snapshot().reports == ()


async def test_what_cannot_be_saved_is_not_done_and_ends_this_life():
    """
    The operator is told which file and why; the next life has what was saved before.
    """
    async with hotel("a") as site:
        await site.run()
        await site.shows((0, "a", "ready"))
        run_dir = Path(site.house.instance.run_dir)
        (run_dir / "enrolment.new").mkdir()  # as a full disk would, it refuses what is written

        refused = await site.operator.delete("/admin/groups/0")

        assert refused.status_code == 503
        assert "enrolment.json: Is a directory" in error_of(refused)["message"]
        assert site.rows == [(0, "a", "ready")]
        await until(lambda: site.has_ended)


async def test_a_source_that_fails_takes_nobody_with_it(caplog):
    """
    What it told stands.
    """
    async with hotel() as site:

        async def fails(tell):
            tell([])
            site.source.tell = tell
            raise RuntimeError("no luck")

        site.source.keep = fails
        await site.run()
        site.engines.up["b"] = "m"
        site.source.tells(B)

        await site.shows((0, "b", "ready"))
        assert "--source has failed" in caplog.text
        assert not site._keeping.done()


async def test_an_engine_that_leaves_dead_does_not_serve_again_when_it_is_up():
    """
    It is still not wanted.
    """
    async with hotel("a") as site:
        await site.run()
        await site.shows((0, "a", "ready"))
        site.has_open(0, 1)
        del site.engines.up["a"]
        await site.operator.delete("/admin/groups/0")
        epoch = site.entries[0].epoch
        for _ in range(2):
            await site.enrolled.membership.probe(epoch)
        assert site.rows == [(0, "a", "dead")]

        site.engines.up["a"] = "m"
        await site.enrolled.membership.probe(epoch)

        assert site.rows == [(0, "a", "draining")]


async def test_whoever_asks_engines_learns_of_each_before_it_is_asked():
    """
    Those of the start, of sources and of operators.
    """
    async with hotel("a") as site:
        assert ("http://a:1", 0) in site.learnt
        await site.run()
        site.source.tells(B)
        await site.operator.post("/admin/groups", json={"backend": C})
        await until(lambda: {"b/props", "c/props"} <= set(site.engines.asked))

        for host in ("b", "c"):
            first = next(i for i, asked in enumerate(site.engines.asked) if asked.startswith(host))
            assert any(url == f"http://{host}:1" and at <= first for url, at in site.learnt)
