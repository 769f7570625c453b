"""What requests say of where they should go, read from their headers and over real sockets."""

import contextlib

import orjson
import pytest

from router.errors import BadRequest
from router.front_door.message import Request
from router.front_door.wishes import Wishes
from shm.group_table import GroupEntry, GroupState
from tests.router.clients import CHAT, post
from tests.router.fakes import until
from tests.router.groups import FakeGroup
from tests.router.house import House


def asked(**headers):
    named = [(name.replace("_", "-").encode(), b"", value) for name, value in headers.items()]
    return Request(b"POST", b"/v1/chat/completions", named, keep_alive=True, is_http10=False)


def key(body=None, method="session", **headers):
    return Wishes(lambda: range(4), method).session_key(asked(**headers), body or {"prompt": "x"})


def chat(*turns):
    return {"messages": [{"role": role, "content": text} for role, text in turns]}


FIRST = [("system", "be short"), ("user", "hello")]


def test_the_rank_is_read_from_its_header():
    """
    None if it is not there.
    """
    wishes = Wishes(lambda: range(4), "random")

    assert wishes.dp_rank(asked(x_data_parallel_rank=b"3")) == 3
    assert wishes.dp_rank(asked()) is None


@pytest.mark.parametrize("rank", [b"4", b"-1", b"two", b"1.0", b"\xb2", b"9" * 5000])
def test_what_is_no_rank_of_the_instance_is_refused(rank):
    """
    With the ranks that there are.
    """
    with pytest.raises(BadRequest, match="ranks are 0 to 3") as refused:
        Wishes(lambda: range(4), "random").dp_rank(asked(x_data_parallel_rank=rank))

    assert refused.value.param == "x-data-parallel-rank"


def test_a_session_is_known_by_its_name():
    """
    The affinity header before the id, and either before the conversation.
    """
    both = key(chat(*FIRST), x_session_affinity=b"a", x_session_id=b"b")

    assert both == key(x_session_affinity=b"a") == key(x_session_id=b"a")
    assert both != key(x_session_id=b"b")
    assert 0 <= both < 1 << 64


def test_a_conversation_is_known_by_its_beginning():
    """
    Up to the first question: the next turn has it too, another conversation has not.
    """
    later = [*FIRST, ("assistant", "hi"), ("user", "and now?")]

    assert key(chat(*FIRST)) == key(chat(*later))
    assert key(chat(*FIRST)) != key(chat(FIRST[0], ("user", "goodbye")))


@pytest.mark.parametrize("name", ["prompt", "text", "input_ids"])
def test_a_prompt_is_known_by_its_beginning(name):
    """
    In every form, and if it is the first of several.
    """
    start = [7] * 300 if name == "input_ids" else "w" * 300

    assert key({name: start}) == key({name: start + start}) == key({name: [start, start]})
    assert key({name: start}) != key({name: start[1:2] * 3})


@pytest.mark.parametrize(
    "body",
    [{"messages": [3]}, {"messages": []}, {"prompt": []}, {"prompt": [[]]}, {"prompt": 5}, {}],
)
def test_odd_bodies_have_a_key_all_the_same(body):
    """
    Somebody else refuses them.
    """
    assert key(body) is not None


def test_a_conversation_nested_too_deep_to_name_has_no_key():
    """
    It is read, but could not be written; whoever serves it may refuse it.
    """
    deep = []
    for _ in range(300):
        deep = [deep]

    assert key({"messages": [{"role": "user", "content": "x", "extra": deep}]}) is None


@pytest.mark.parametrize("method", ["random", "min_step_cost"])
def test_methods_that_know_no_sessions_do_not_look_for_them(method):
    """
    Hashing costs time.
    """
    assert key(method=method, x_session_id=b"a") is None


@contextlib.asynccontextmanager
async def a_house(method, dp_size=3):
    async with contextlib.AsyncExitStack() as stack:
        house = await stack.enter_async_context(House.built(dp_size=dp_size, method=method))
        groups = [await stack.enter_async_context(FakeGroup.listening()) for _ in range(dp_size)]
        house.present(*groups)
        house.report(dp_size)
        door = await stack.enter_async_context(house.door())
        yield house, groups, await stack.enter_async_context(door.client())


async def send(client, groups, extra, body=CHAT):
    """Which group got it."""
    before = [len(group.received) for group in groups]
    client.send(post(body, extra=extra))
    await until(lambda: [len(group.received) for group in groups] != before)
    (taken,) = [i for i, group in enumerate(groups) if len(group.received) > before[i]]
    (await groups[taken].next_request()).answer()
    assert (await client.response()).status == 200
    return taken


@pytest.mark.anyio
@pytest.mark.parametrize("method", ["minimum_tokens", "session", "total_tokens", "round_robin"])
async def test_a_rank_that_is_asked_for_answers_whatever_the_method(method):
    """
    Every time.
    """
    async with a_house(method) as (_, groups, client):
        for rank in (2, 2, 0, 2):
            assert await send(client, groups, b"X-Data-Parallel-Rank: %d\r\n" % rank) == rank


@pytest.mark.anyio
async def test_a_rank_that_cannot_be_is_400_and_one_that_cannot_take_it_503():
    """
    With the reason, and without trying another.
    """
    async with a_house("minimum_tokens") as (house, groups, client):
        client.send(post(extra=b"x-data-parallel-rank: 3\r\n"))
        refused = await client.response()
        states = (GroupState.READY, GroupState.DRAINING, GroupState.READY)
        house.publish_table(
            *(
                GroupEntry(rank, state, 11, "127.0.0.1", groups[rank].port)
                for rank, state in enumerate(states)
            )
        )
        client.send(post(extra=b"x-data-parallel-rank: 1\r\n"))
        draining = await client.response()

        assert (refused.status, refused.error["param"]) == (400, "x-data-parallel-rank")
        assert (draining.status, draining.header(b"retry-after")) == (503, b"1")
        assert draining.error["message"] == "DP group 1, which was asked for, is draining"


@pytest.mark.anyio
async def test_the_requests_of_a_session_meet_in_one_group():
    """
    By the header's name, or by how the conversation begins.
    """
    async with a_house("session") as (_, groups, client):
        for name in (b"ann", b"bob"):
            extra = b"X-Session-ID: %s\r\n" % name
            assert await send(client, groups, extra) == await send(client, groups, extra)
    async with a_house("session") as (_, groups, client):
        turns = [orjson.dumps(chat(*FIRST, *[("user", "more")] * n)) for n in range(4)]
        assert len({await send(client, groups, b"", body) for body in turns}) == 1
