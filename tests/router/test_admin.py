"""What an operator may do, asked without a network."""

import signal

import httpx
import pytest

from router.control_plane.app import ControlPlane, build_app
from router.control_plane.figures import Figures
from router.control_plane.tokenizing import Tokenizing
from router.control_plane.totals import TotalsReader
from shm.group_table import GroupState
from tests.router.fakes import soon, turns
from tests.router.test_app import error_of

STARTING, READY, SUSPECT, DRAINING, DEAD = (
    GroupState(word) for word in ("starting", "ready", "suspect", "draining", "dead")
)

NO_BACKEND = {"weight": None, "sources": [], "age_s": None}

pytestmark = pytest.mark.anyio


@pytest.fixture
async def operator(keeper):
    """A client of the control plane over that membership."""
    figures = Figures(keeper.loads, keeper.board, keeper.clock_ns)
    control = ControlPlane(
        keeper.house.instance,
        keeper.membership,
        figures,
        Tokenizing(keeper.client),
        TotalsReader(keeper.client),
    )
    transport = httpx.ASGITransport(build_app(control))
    async with httpx.AsyncClient(transport=transport, base_url="http://control") as client:
        yield client


async def ready(keeper, leader):
    keeper.leave_card(0, pid=leader.pid)
    keeper.health.answers = {1000: 200}
    await keeper.keep_until(READY, STARTING)


async def test_a_group_is_drained(keeper, leader, operator):
    """
    202 with its state and epoch, and its process is asked to end.
    """
    await ready(keeper, leader)

    answer = await operator.post("/admin/groups/0/drain")

    assert answer.status_code == 202
    assert answer.json() == {"dp_rank": 0, "state": "draining", "epoch": 5}
    assert keeper.published == [DRAINING, STARTING]
    assert await soon(leader.wait()) == -signal.SIGTERM


async def test_a_group_that_is_draining_may_be_drained_again(keeper, operator):
    """
    With the same answer, and no second signal.
    """
    told = []
    previous = signal.signal(signal.SIGTERM, lambda *_: told.append("SIGTERM"))
    try:
        await keeper.both_ready()  # the leaders are this very process
        answers = [await operator.post("/admin/groups/0/drain") for _ in range(3)]
        await turns()
    finally:
        signal.signal(signal.SIGTERM, previous)

    assert [answer.status_code for answer in answers] == [202, 202, 202]
    assert {answer.text for answer in answers} == {answers[0].text}
    assert told == ["SIGTERM"]


async def test_a_suspect_group_may_be_drained(keeper, leader, operator):
    """
    It hears of it when it hears anything again.
    """
    await ready(keeper, leader)
    keeper.health.answers[1000] = None
    probing = await keeper.is_asked(0)
    keeper.now_ns += 9_000_000_000
    keeper.membership.look()
    assert keeper.published == [SUSPECT, STARTING]

    answer = await operator.post("/admin/groups/0/drain")

    assert (answer.status_code, answer.json()["state"]) == (202, "draining")
    probing.cancel()


async def test_a_group_that_is_not_there_yet_cannot_drain(keeper, leader, operator):
    """
    409: there is nobody to tell.
    """
    await ready(keeper, leader)

    answer = await operator.post("/admin/groups/1/drain")

    assert (answer.status_code, error_of(answer)["code"]) == (409, "conflict")
    assert error_of(answer)["message"] == "DP group 1 is starting: it cannot drain"
    assert keeper.published == [READY, STARTING]


async def test_a_dead_group_cannot_drain(keeper, leader, operator):
    """
    409 likewise.
    """
    await ready(keeper, leader)
    leader.kill()
    await soon(leader.wait())
    keeper.membership.look()

    answer = await operator.post("/admin/groups/0/drain")

    assert answer.status_code == 409
    assert keeper.published == [DEAD, STARTING]


@pytest.mark.parametrize(("dp_rank", "status"), [("2", 404), ("-1", 404), ("two", 400)])
async def test_a_group_that_there_is_not_cannot_drain(operator, dp_rank, status):
    """
    Naming those that there are.
    """
    answer = await operator.post(f"/admin/groups/{dp_rank}/drain")

    assert answer.status_code == status
    if status == 404:
        message = error_of(answer)["message"]
        assert message == f"there is no DP group {dp_rank}: there are 0 to 1"


async def test_draining_takes_a_post(operator):
    """
    A link that is followed must not stop anybody.
    """
    assert (await operator.get("/admin/groups/0/drain")).status_code == 405


async def test_groups_are_listed(keeper, leader, operator):
    """
    With what is open there: running, waiting, and not yet accepted.
    """
    await ready(keeper, leader)
    keeper.report(0.0, num_groups=1, running_requests=3, waiting_requests=2)

    groups = (await operator.get("/admin/groups")).json()

    assert groups == [
        {"dp_rank": 0, "state": "ready", "epoch": 5, "host": "127.0.0.1", "port": 1000,
         "engine": "", "engine_rank": None, "open_requests": 5, "models": ["m"], **NO_BACKEND},
        {"dp_rank": 1, "state": "starting", "epoch": 0, "host": "", "port": 0,
         "engine": "", "engine_rank": None, "open_requests": 0, "models": [], **NO_BACKEND},
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/admin/groups", {"backend": "http://a:1"}),
        ("DELETE", "/admin/groups/0", None),
        ("PATCH", "/admin/groups/0", {"weight": 2}),
        ("POST", "/admin/groups/0/undrain", None),
    ],
)
async def test_workers_of_ours_do_not_come_and_go(operator, method, path, body):
    """
    409, and why.
    """
    answer = await operator.request(method, path, json=body)

    assert answer.status_code == 409
    assert "are workers of ours" in error_of(answer)["message"]
    assert (await operator.get("/admin/backends")).json() == []


async def test_the_endpoints_are_described(operator):
    """
    In the OpenAPI document, by their paths.
    """
    paths = (await operator.get("/openapi.json")).json()["paths"]

    assert {"/admin/groups", "/admin/groups/{dp_rank}/drain"} <= set(paths)
