"""What an operator may do about a group's memory, asked without a network."""

import httpx
import orjson
import pytest

from shm.group_table import GroupState
from tests.router.asking import asked, entry, error_of
from tests.router.house import House

RELEASE = "/admin/groups/1/release_memory_occupation"
RESUME = "/admin/groups/1/resume_memory_occupation"
TOLD = {"released_tags": ["kv_cache"], "changed_tags": ["kv_cache"], "num_bytes": 77}

pytestmark = pytest.mark.anyio


@pytest.fixture
async def house():
    """Segments for two groups and one front door."""
    async with House.built(dp_size=2) as built:
        yield built


@pytest.mark.parametrize(
    ("path", "body", "passed_on"),
    [
        (RELEASE, None, {}),
        (RELEASE, {"tags": ["kv_cache"], "timeout_s": 0}, {"tags": ["kv_cache"], "timeout_s": 0}),
        (RESUME, {"tags": ["weights"]}, {"tags": ["weights"]}),
    ],
)
async def test_the_groups_leader_is_asked(house, path, body, passed_on):
    """
    In its present life; it says what has become of its memory.
    """
    questions = []

    def respond(request):
        questions.append(request)
        return httpx.Response(200, json=TOLD)

    async with asked(house, [entry(0), entry(1)], respond) as client:
        answer = await client.post(path, json=body)

    [question] = questions
    assert (question.url.port, question.url.path) == (1001, "/" + path.rpartition("/")[2])
    assert question.headers["x-levelhead-group-epoch"] == "11"
    assert orjson.loads(question.content) == passed_on
    assert (answer.status_code, answer.json()) == (200, {"dp_rank": 1} | TOLD)


@pytest.mark.parametrize("state", [GroupState.SUSPECT, GroupState.RELEASED], ids=str)
async def test_whoever_may_answer_is_asked(house, state):
    """
    Above all a released group: how else would it get its memory again.
    """

    def respond(request):
        return httpx.Response(200, json=TOLD)

    async with asked(house, [entry(0), entry(1, state)], respond) as client:
        assert (await client.post(RESUME)).status_code == 200


async def test_a_refusal_is_the_leaders_own(house):
    """
    Status and error come as they are.
    """
    error = {"message": "holds 3", "type": "t", "param": None, "code": "not_released"}

    async with asked(
        house, [entry(0), entry(1)], lambda _: httpx.Response(409, json={"error": error})
    ) as client:
        answer = await client.post(RELEASE)

    assert (answer.status_code, error_of(answer)) == (409, error)


async def test_a_leader_that_is_lost_is_no_failure_of_the_control_plane(house):
    """
    502.
    """
    async with asked(house, [entry(0), entry(1)]) as client:
        answer = await client.post(RELEASE)

    assert answer.status_code == 502
    assert error_of(answer)["message"] == "DP group 1 was lost: refused"


@pytest.mark.parametrize(
    ("group", "status", "said"),
    [
        (entry(1, GroupState.DEAD), 409, "DP group 1 is dead: its memory stays as it is"),
        (entry(1, GroupState.STARTING), 409, "DP group 1 is starting: its memory stays as it is"),
        (entry(1, GroupState.DRAINING), 409, "DP group 1 is draining: its memory stays as it is"),
        (entry(1, engine="sglang"), 409, "DP group 1 is a backend: ask its engine itself"),
    ],
    ids=["dead", "starting", "draining", "backend"],
)
async def test_who_cannot_be_asked_is_named(house, group, status, said):
    """
    And why; nobody is asked.
    """
    async with asked(house, [entry(0), group]) as client:
        answer = await client.post(RELEASE)

    assert (answer.status_code, error_of(answer)["message"]) == (status, said)


async def test_a_group_that_there_is_not_has_no_memory(house):
    """
    404, naming those that there are.
    """
    async with asked(house, [entry(0), entry(1)]) as client:
        answer = await client.post("/admin/groups/7/release_memory_occupation")

    assert answer.status_code == 404
    assert error_of(answer)["message"] == "there is no DP group 7: there are 0 to 1"


@pytest.mark.parametrize(
    "body", [{"tags": ["cache"]}, {"tags": []}, {"tag": ["weights"]}, {"timeout_s": -1}]
)
async def test_a_body_that_is_wrong_reaches_nobody(house, body):
    """
    400, before anybody is asked: a misspelt field would else release everything.
    """
    async with asked(house, [entry(0), entry(1)]) as client:
        answer = await client.post(RELEASE, json=body)

    assert answer.status_code == 400
