"""Releasing and resuming over HTTP."""

import asyncio

import orjson
import pytest

from tests.workers.server_rig import Connection, serving
from tests.workers.test_occupation import CountedMemory
from workers.card import Card, PostedCard, State
from workers.model.errors import ModelMissing
from workers.model.resident import Part

RELEASE, RESUME = "/release_memory_occupation", "/resume_memory_occupation"
COMPLETION = {"prompt": [5, 6, 7], "max_tokens": 3}
BOTH = ["kv_cache", "weights"]

pytestmark = pytest.mark.anyio


@pytest.fixture(name="memory")
def _memory():
    return CountedMemory()


class Hour:
    """A clock that stands still until it is set."""

    now_s = 0.0

    def __call__(self):
        return self.now_s


async def test_memory_goes_and_comes(codec, memory):
    """
    In between requests are refused with 503, and after it they are served as before.
    """
    async with serving(codec, memory=memory) as (rig, client):
        before = (await client.post("/v1/completions", json=COMPLETION)).json()["choices"]
        released = await client.post(RELEASE)
        refused = await client.post("/v1/completions", json=COMPLETION)
        resumed = await client.post(RESUME, json={"tags": BOTH})
        after = (await client.post("/v1/completions", json=COMPLETION)).json()["choices"]

    assert (released.status_code, released.json()) == (
        200, {"released_tags": BOTH, "changed_tags": BOTH, "num_bytes": 5300},
    )  # fmt: skip
    assert resumed.json() == {"released_tags": [], "changed_tags": BOTH, "num_bytes": 5300}
    error = refused.json()["error"]
    assert (refused.status_code, error["code"]) == (503, "memory_released")
    assert refused.headers["retry-after"] == "1"
    assert "(kv_cache, weights)" in error["message"]
    assert before == after
    assert rig.announced == [State.RELEASED, State.READY]


async def test_a_released_worker_is_well(codec, memory):
    """
    Else whoever supervises it would start it again, with all its memory.
    """
    async with serving(codec, memory=memory) as (_, client):
        await client.post(RELEASE)

        assert (await client.get("/health")).status_code == 200


async def test_what_is_held_is_finished_first(codec, memory):
    """
    The card says at once that nobody is to come; the memory stays until the last has its answer.
    """
    async with serving(codec, memory=memory, clock=Hour()) as (rig, client):
        running = Connection(rig.app, "/v1/completions", orjson.dumps(COMPLETION))
        answer = await client.post(RELEASE)
        await running.task

    assert answer.status_code == 200
    assert rig.pauses > 0
    assert running.sent[0]["status"] == 200
    assert orjson.loads(running.sent[-1]["body"] or running.sent[-2]["body"])["choices"]


async def test_with_no_time_memory_in_use_is_not_released(codec, memory):
    """
    409, as SGLang's assertion; it serves on, and its card says so.
    """
    long = orjson.dumps(COMPLETION | {"max_tokens": 190, "ignore_eos": True})
    async with serving(codec, memory=memory) as (rig, client):
        running = Connection(rig.app, "/v1/completions", long)
        await running.settle_down()
        answer = await client.post(RELEASE, json={"timeout_s": 0})
        await running.task
        assert running.sent[0]["status"] == 200

    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (409, "not_released")
    assert "holds 1 requests" in error["message"]
    assert memory.calls == []
    assert rig.announced == [State.RELEASED, State.READY]


async def test_only_a_group_with_all_its_memory_serves(codec, memory):
    """
    A part taken back is not enough, nor does a refusal say that a released group is ready.
    """
    async with serving(codec, memory=memory) as (rig, client):
        await client.post(RELEASE)
        part = await client.post(RESUME, json={"tags": ["weights"]})
        assert part.json()["released_tags"] == ["kv_cache"]
        assert (await client.post("/v1/completions", json=COMPLETION)).status_code == 503
        assert State.READY not in rig.announced
        await client.post(RESUME)
        assert rig.announced[-1] is State.READY


async def test_changes_follow_each_other(codec, memory):
    """
    Asked for at the same time, each finds what the one before has left.
    """
    async with serving(codec, memory=memory) as (_, client):
        answers = await asyncio.gather(
            *(client.post(path) for path in (RELEASE, RELEASE, RESUME, RELEASE))
        )

    assert [answer.json()["changed_tags"] for answer in answers] == [BOTH, [], BOTH, BOTH]


async def test_weights_that_are_gone_are_an_error(codec, memory):
    """
    500 with the reason; the group stays released.
    """
    async with serving(codec, memory=memory) as (rig, client):
        await client.post(RELEASE)
        memory.error = ModelMissing("/m.gguf: no such file or folder")
        answer = await client.post(RESUME)

        error = answer.json()["error"]
        assert (answer.status_code, error["code"]) == (500, "not_resumed")
        assert "/m.gguf: no such file" in error["message"]
        assert rig.announced == [State.RELEASED]
        memory.error = None
        assert (await client.post(RESUME)).status_code == 200


@pytest.mark.parametrize("path", [RELEASE, RESUME])
async def test_where_nothing_can_be_released_it_says_why(codec, path):
    """
    409, and nobody was told that the group is to be left alone.
    """
    async with serving(codec, memory="all ranks share their weights") as (rig, client):
        answer = await client.post(path)

    assert answer.status_code == 409
    assert "share their weights" in answer.json()["error"]["message"]
    assert rig.announced == []


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"tags": ["cache"]}, "kv_cache"),
        ({"tags": []}, "tags"),
        ({"tag": ["weights"]}, "tag: Extra inputs"),
        ({"timeout_s": -1}, "timeout_s"),
        ([], "valid dictionary"),
    ],
)
async def test_a_body_that_is_wrong_is_refused(codec, memory, body, said):
    """
    Naming field and allowed values; a misspelt field would else release everything.
    """
    async with serving(codec, memory=memory) as (rig, client):
        answer = await client.post(RELEASE, json=body)

    assert answer.status_code == 400
    assert said in answer.json()["error"]["message"]
    assert rig.announced == memory.calls == []


async def test_the_key_is_needed(codec, memory):
    """
    Who may not use the group may not stop it either.
    """
    async with serving(codec, memory=memory, instance_key="secret") as (_, client):
        assert (await client.post(RELEASE)).status_code == 401

    assert memory.calls == []


def test_draining_is_the_last_word_of_a_card(tmp_path):
    """
    A resume that ends while the process is told to stop does not invite requests.
    """
    card = Card(0, 7, "h", 1, 2, 3, "m", 10, 4, 64, "t")
    posted = PostedCard(card, tmp_path)

    states = []
    for state in (State.READY, State.RELEASED, State.READY, State.DRAINING, State.READY):
        posted.post(state)
        states.append(orjson.loads((tmp_path / "group-0.json").read_bytes())["state"])
    posted.remove()

    assert states == ["ready", "released", "ready", "draining", "draining"]
    assert list(tmp_path.iterdir()) == []
    assert sorted(Part) == BOTH
