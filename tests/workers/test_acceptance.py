import pytest
from hypothesis import given
from hypothesis import strategies as st

from shm.load import Accepted
from workers.engine.acceptance import KEEP_S, AcceptedCounters, Charge, ChargeDesk
from workers.errors import ChargeSeen


def charge(number, tokens=10, front_door=0, epoch=1):
    return Charge(f"{number:016x}", front_door, epoch, tokens)


class Clock:
    def __init__(self):
        self.now_s = 0.0

    def __call__(self):
        return self.now_s


@pytest.fixture(name="settled")
def _settled():
    return []


@pytest.fixture(name="desk")
def _desk(settled):
    return ChargeDesk(settled.append, Clock(), max_new_ids=3)


def test_a_charge_that_is_taken_is_not_settled(desk, settled):
    """
    It is counted with its request, and closing it afterwards does nothing.
    """
    opened = desk.arrive(charge(1))

    assert opened.take() == charge(1)
    opened.close()

    assert settled == []


def test_a_charge_that_is_not_taken_is_settled_once(desk, settled):
    """
    However often it is closed.
    """
    opened = desk.arrive(charge(1))

    opened.close()
    opened.close()

    assert settled == [charge(1)]


def test_the_same_id_does_not_arrive_twice(desk, settled):
    """
    The second one is refused, and counts nothing.
    """
    desk.arrive(charge(1)).take()

    with pytest.raises(ChargeSeen, match="0000000000000001"):
        desk.arrive(charge(1))
    assert settled == []


def test_settling_what_never_arrived_counts_it_now_and_bars_it_later(desk, settled):
    """
    A request that was still on its way when it was given up is refused when it comes.
    """
    assert not desk.settle(charge(1))
    assert desk.settle(charge(1))

    with pytest.raises(ChargeSeen):
        desk.arrive(charge(1))
    assert settled == [charge(1)]


def test_settling_what_has_arrived_counts_nothing(desk, settled):
    """
    Also while its request is being read and nothing was counted yet.
    """
    desk.arrive(charge(1))

    assert desk.settle(charge(1))
    assert settled == []


def test_ids_are_remembered_for_ten_minutes_however_many_arrive(settled):
    """
    A question is answered by what was counted, and forgotten ones make no memory grow.
    """
    clock = Clock()
    desk = ChargeDesk(settled.append, clock)
    for second in range(3_000):
        clock.now_s = float(second)
        for number in range(100):
            desk.arrive(charge(100 * second + number)).take()
        if second >= KEEP_S:
            assert desk.settle(charge(100 * (second - int(KEEP_S))))

    assert settled == []
    assert not desk.settle(charge(1)), "it is forgotten"


def test_ids_that_arrive_too_fast_are_forgotten_by_their_number(desk, caplog):
    """
    The memory is bounded, keeps the newest ids, and says so once.
    """
    for number in range(1, 11):
        desk.arrive(charge(number)).take()

    assert all(desk.settle(charge(number)) for number in (7, 8, 9, 10))
    assert not desk.settle(charge(1))
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "3 requests arrived within 0 s" in caplog.text


def test_each_front_door_has_its_own_counters():
    """
    Tokens and requests add up by slot.
    """
    counters = AcceptedCounters(2)
    for number, slot in enumerate((0, 1, 1)):
        counters.count(charge(number, tokens=5, front_door=slot))

    assert counters.read() == (Accepted(1, 5, 1, 0, 0), Accepted(1, 10, 2, 0, 0))


def test_a_newer_front_door_starts_from_zero_and_an_older_one_counts_nothing():
    """
    A front door that came back has a new book; what its last life sent is in no book.
    """
    counters = AcceptedCounters(1)

    counters.count(charge(1, epoch=5))
    counters.count(charge(2, epoch=6, tokens=3))
    counters.count(charge(3, epoch=5))

    assert counters.read() == (Accepted(6, 3, 1, 0, 0),)


def test_what_an_older_front_door_sent_ends_in_nobodys_book():
    """
    It was counted in a book that is closed; in the new one nothing has ended.
    """
    counters = AcceptedCounters(1)
    counters.count(charge(1, epoch=5))
    counters.count(charge(2, epoch=6, tokens=3))

    counters.end(charge(1, epoch=5))
    assert counters.read() == (Accepted(6, 3, 1, 0, 0),)

    counters.end(charge(2, epoch=6, tokens=3))
    assert counters.read() == (Accepted(6, 3, 1, 1, 2),)


@given(
    st.lists(st.tuples(st.integers(1, 6), st.sampled_from(["arrive", "take", "close", "settle"])))
)
def test_every_id_that_reaches_the_leader_is_counted_exactly_once(events):
    """
    Whatever order arrivals, hand-overs, refusals and questions come in.
    """
    counted, opened, reached = [], {}, set()
    desk = ChargeDesk(counted.append, Clock())
    for number, event in events:
        if event == "settle":
            desk.settle(charge(number))
            reached.add(number)
        elif event == "arrive" and number not in reached:
            opened[number] = desk.arrive(charge(number))
            reached.add(number)
        elif event == "take" and number in opened:
            counted.append(opened[number].take())
            opened.pop(number).close()
        elif event == "close" and number in opened:
            opened.pop(number).close()
    for left in opened.values():
        left.close()

    assert sorted(counted) == [charge(number) for number in sorted(reached)]
