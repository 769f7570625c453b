import pytest

from balancer.in_flight import InFlight
from router.control_plane.figures import Figures, GroupFigures, imbalance
from router.control_plane.loads import loads_of
from shm.board import Board, Cell
from shm.errors import TornRead
from shm.group_table import GroupEntry, GroupState
from shm.load import LoadReader
from tests.router.asking import torn
from tests.router.house import House, load_report

pytestmark = pytest.mark.anyio


def entry(dp_rank=0, epoch=11, state=GroupState.READY):
    return GroupEntry(dp_rank, state, epoch, "127.0.0.1", 1, "m")


@pytest.fixture
async def seen():
    """Two doors' board and the load segment, with figures that read them at 3 s."""
    async with House.built(num_front_doors=2) as house:
        loads = LoadReader.attach(house.instance.name)
        board = Board.attach(house.instance.name, writable=True)
        yield house, board, Figures(loads, board, lambda: 3_000_000_000)
        loads.close()
        board.close()


async def test_in_flight_is_what_no_report_shows_yet(seen):
    """
    Summed over the front doors, less what came back and what was accepted.
    """
    house, board, figures = seen
    board.write(0, 0, Cell(1, 11, 100, 4, 10, 1, 90, 3))
    board.write(1, 0, Cell(2, 11, 50, 1, 0, 0, 50, 1))
    house.report(accepted=((1, 30, 1), (2, 0, 0)), holding_tokens=70, sampled_ns=1_000_000_000)

    (group,) = figures.read((entry(),))

    assert group.in_flight == (110, 3)
    assert group.tokens == 180
    assert group.age_s == pytest.approx(2.0)
    assert (group.dispatched_tokens, group.returned_tokens) == (150, 10)


async def test_a_report_of_another_life_is_no_report(seen):
    """
    Nor are charges that were sent to it.
    """
    house, board, figures = seen
    board.write(0, 0, Cell(1, 11, 100, 4, 0, 0, 100, 4))
    house.report(holding_tokens=70)

    (group,) = figures.read((entry(epoch=12),))

    assert (group.report, group.age_s, group.tokens) == (None, None, 0)


async def test_before_anything_is_published_a_group_has_no_figures(seen):
    """
    Its fields are null, not zero.
    """
    _, _, figures = seen

    loads = loads_of(figures.read((entry(),)), 7.0)

    assert (loads.timestamp, loads.dp_rank_count, loads.imbalance) == (7.0, 1, 1.0)
    told = loads.loads[0].model_dump()
    assert told.pop("state") == "ready"
    zeros = ("dp_rank", "in_flight_tokens", "in_flight_requests", "load_tokens")
    given = dict.fromkeys(zeros, 0) | {"epoch": 11}
    assert {name: value for name, value in told.items() if value is not None} == given


async def test_zero_is_told_as_zero(seen):
    """
    An idle group reports nothing but zeros, and that is not null.
    """
    house, _, figures = seen
    house.report()

    told = loads_of(figures.read((entry(),)), 7.0).loads[0]

    assert (told.num_running_reqs, told.holding_tokens, told.step_time_ms) == (0, 0, 0.0)


async def test_ages_of_reports_are_known_by_group(seen):
    """
    Of those that have reported in their present epoch.
    """
    house, _, figures = seen
    assert figures.report_ages_s((entry(),)) == {}
    house.report(sampled_ns=1_000_000_000)

    assert figures.report_ages_s((entry(),)) == {0: pytest.approx(2.0)}
    assert figures.report_ages_s((entry(epoch=12),)) == {}


async def test_torn_figures_are_the_last_ones_with_one_warning(seen, caplog):
    """
    For each spell; ages are not known meanwhile.
    """
    house, _, figures = seen
    house.report(holding_tokens=70)
    whole = figures.read((entry(),))

    for _ in range(2):
        with torn(house):
            assert [figures.read((entry(),)) for _ in range(3)] == [whole] * 3
            assert figures.report_ages_s((entry(),)) is None
        assert figures.read((entry(),)) == whole

    assert sum("the last figures are told on" in told for told in caplog.messages) == 2


async def test_figures_that_were_never_whole_are_none(seen):
    """
    The caller is told.
    """
    house, _, figures = seen
    house.report(holding_tokens=70)

    with torn(house), pytest.raises(TornRead):
        figures.read((entry(),))


def figure(tokens, state=GroupState.READY):
    report = load_report(holding_tokens=tokens)
    return GroupFigures(entry(state=state), report, InFlight(0, 0), 0.0, 0, 0)


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [((), 1.0), ((0, 0), 1.0), ((5, 5), 1.0), ((9, 0, 0), 3.0), ((3, 1), 1.5)],
)
def test_imbalance_is_the_largest_over_the_mean(tokens, expected):
    """
    1 when level or idle, the number of groups when one has everything.
    """
    assert imbalance([figure(each) for each in tokens]) == pytest.approx(expected)


def test_groups_that_are_not_ready_do_not_count_for_imbalance():
    """
    A dead group's emptiness is no imbalance.
    """
    assert imbalance([figure(5), figure(0, GroupState.DEAD)]) == 1.0
