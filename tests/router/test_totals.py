import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from router.control_plane.totals import Totals, TotalsReader
from shm.group_table import GroupState
from tests.router.asking import asked, entry
from tests.router.house import House

pytestmark = pytest.mark.anyio

TOLD = Totals(60, 20, 40, 3, 9, 2)


async def read(entries, respond):
    async with httpx.AsyncClient(transport=httpx.MockTransport(respond)) as client:
        return await TotalsReader(client).read(entries)


async def test_each_group_that_runs_is_asked_in_its_present_life():
    """
    Whatever its state, if there may be somebody to answer.
    """
    questions = []

    def respond(request):
        questions.append(
            (request.url.port, request.url.path, request.headers["x-levelhead-group-epoch"])
        )
        return httpx.Response(200, json=TOLD._asdict())

    entries = [entry(rank, state, epoch=20 + rank) for rank, state in enumerate(GroupState)]
    told = await read(entries, respond)

    asked = [e for e in entries if e.state not in (GroupState.STARTING, GroupState.DEAD)]
    assert told == {e.dp_rank: TOLD for e in asked}
    assert sorted(questions) == [(1000 + e.dp_rank, "/totals", str(e.epoch)) for e in asked]


def lose(request):
    raise httpx.ReadError("lost")


@pytest.mark.parametrize(
    "respond",
    [
        lose,
        lambda _: httpx.Response(404, json={"error": {}}),
        lambda _: httpx.Response(421, json=TOLD._asdict()),
        lambda _: httpx.Response(200, content=b'{"prompt_tok'),
        lambda _: httpx.Response(200, json=[1]),
        lambda _: httpx.Response(200, json={"prompt_tokens": 5}),
        lambda _: httpx.Response(200, json=TOLD._asdict() | {"retractions": None}),
    ],
    ids=["lost", "none", "another-life", "cut", "list", "some", "null"],
)
async def test_a_group_without_totals_is_left_out(respond):
    """
    The other one's are told all the same.
    """

    def by_port(request):
        if request.url.port == 1000:
            return respond(request)
        return httpx.Response(200, json=TOLD._asdict())

    assert await read([entry(0), entry(1)], by_port) == {1: TOLD}


async def test_a_scrape_shows_them():
    """
    Under the group's number.
    """

    def respond(request):
        return httpx.Response(200, json=TOLD._asdict())

    async with House.built() as house:
        house.report()
        async with asked(house, [entry()], respond) as client:
            answer = await client.get("/metrics")

    families = {family.name: family for family in text_string_to_metric_families(answer.text)}
    (sample,) = families["levelhead_group_computed_tokens"].samples
    assert (sample.labels, sample.value) == ({"group": "0"}, 40)
