"""Engines get slots, and what is wanted of them is done."""

import itertools
from dataclasses import replace

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.backends.backend import Backend, BackendGroup, Kind
from router.control_plane.engines import Engines, told_of
from router.control_plane.plan import plan
from router.control_plane.roster import Wanted
from router.errors import NoFreeSlot

EPOCH = 100


def engines(num_slots=4, wall_ns=lambda: 0):
    return Engines(num_slots, EPOCH, wall_ns)


def backend(host="a", kind=None, dp_size=None, weight=1.0):
    return Backend(host, 1, kind, dp_size, weight)


def groups(host="a", num=1, kind=Kind.VLLM):
    ranks = range(num) if num > 1 else (None,)
    return tuple(BackendGroup(host, 1, kind, rank) for rank in ranks)


def wanted(*backends):
    return {each.url: Wanted(each, ("file",)) for each in backends}


def test_the_lowest_free_slots_are_given_and_every_stay_has_its_epoch():
    """
    One that comes back is somebody new.
    """
    some = engines()
    first = some.begin(backend("a"), groups("a", 2))
    second = some.admit(backend("b"), groups("b"))
    some.free(first)
    third = some.admit(backend("c"), groups("c"))
    fourth = some.admit(backend("a"), groups("a", 2))

    assert [each.slots for each in (first, second, third, fourth)] == [(0, 1), (2,), (0,), (1, 3)]
    assert [each.epoch for each in (first, second, third, fourth)] == [100, 101, 102, 103]
    assert some.num_free == 0


def test_an_epoch_is_never_given_twice_whatever_the_time_does():
    """
    It goes back between two lives; the last epoch is remembered.
    """
    times = iter([500, 500, 7, 7])
    some = engines(wall_ns=lambda: next(times))
    late = some.admit(backend("a"), groups("a"))
    some.free(late)
    later = engines(wall_ns=lambda: 7)
    later.recall(orjson.loads(orjson.dumps(some.remembered())))

    assert later.admit(backend("b"), groups("b")).epoch > late.epoch == 500


def test_without_slots_for_all_its_groups_an_engine_gets_none():
    """
    And the error says how many there are.
    """
    some = engines(2)
    some.admit(backend("a"), groups("a"))

    with pytest.raises(NoFreeSlot, match=r"http://b:1 is 2 DP groups, 1 of 2 slots are free"):
        some.admit(backend("b"), groups("b", 2))

    assert some.num_free == 1
    some.check_integrity()


def test_who_is_not_wanted_leaves_and_who_is_wanted_again_stays():
    """
    In the slots and the epoch that it has.
    """
    some = engines()
    engine = some.admit(backend(), groups())
    leaving = plan({}, some, 5).changed
    assert [(each.epoch, each.leaving_ns) for each in leaving] == [(engine.epoch, 5)]
    some.put(leaving[0])

    assert plan({}, some, 6) == ([], [])
    returning = replace(engine, is_returning=True)
    assert plan(wanted(backend()), some, 6) == ([returning], [])
    some.put(returning)
    assert plan(wanted(backend()), some, 7) == ([], [])
    assert plan({}, some, 8).changed == [replace(engine, leaving_ns=8)]


@pytest.mark.parametrize(
    "otherwise", [{"kind": Kind.SGLANG}, {"dp_size": 3}, {"kind": Kind.VLLM, "dp_size": 1}]
)
def test_who_is_wanted_otherwise_goes_and_comes_anew(otherwise):
    """
    Another kind, or another number of ranks.
    """
    some = engines()
    some.admit(backend(), groups(num=2))

    found = plan(wanted(backend(**otherwise)), some, 5)

    assert [each.is_leaving for each in found.changed] == [True]
    assert found.missing == [backend(**otherwise)]


@pytest.mark.parametrize("same", [{}, {"kind": Kind.VLLM}, {"dp_size": 2}])
def test_who_is_what_is_wanted_stays(same):
    """
    Whether that was said or found out.
    """
    some = engines()
    some.admit(backend(), groups(num=2))

    assert plan(wanted(backend(**same)), some, 5) == ([], [])


def test_a_weight_takes_effect_in_place():
    """
    The engine has nothing to do with it.
    """
    some = engines()
    engine = some.admit(backend(), groups())

    found = plan(wanted(backend(weight=3.0)), some, 5)

    assert [(each.epoch, each.backend.weight) for each in found.changed] == [(engine.epoch, 3.0)]
    assert found.missing == []


def test_what_was_found_before_the_start_is_told_by_engine():
    """
    With the slots that follow one another.
    """
    told = told_of((*groups("a", 2), *groups("b", kind=Kind.LLAMACPP)))

    assert list(told) == [backend("a", Kind.VLLM), backend("b", Kind.LLAMACPP)]
    assert [len(each) for each in told.values()] == [2, 1]


def test_the_events_that_were_told_of_an_engine_are_those_of_its_rank_0():
    """
    Whatever ranks it has; that of one alone is not known any more.
    """
    ranks = [
        BackendGroup(
            "a", 1, Kind.VLLM, rank, kv_events=f"tcp://a:{100 + rank}",
            kv_replay=f"tcp://a:{200 + rank}",
        )
        for rank in (4, 5)
    ]  # fmt: skip

    (told,) = told_of(ranks)

    assert (told.kv_events, told.kv_replay) == ("tcp://a:100", "tcp://a:200")


hosts = st.sampled_from("abc")
steps = st.one_of(
    st.tuples(st.just("want"), st.dictionaries(hosts, st.integers(1, 3), max_size=3)),
    st.tuples(st.just("free"), hosts),
    st.tuples(st.just("restart"), st.just(None)),
)


@given(st.lists(steps, max_size=25))
def test_whatever_is_wanted_nobody_shares_a_slot_and_in_the_end_all_is_as_wanted(course):
    """
    Told, freed and started again in any order.
    """
    some, want, epochs = engines(), {}, []
    for what, detail in course:
        if what == "want":
            want = wanted(*(backend(host, dp_size=size) for host, size in detail.items()))
        elif what == "free":
            leaving = [
                each for each in some if each.is_leaving and each.url == f"http://{detail}:1"
            ]
            for engine in leaving:
                some.free(engine)
        else:
            later = engines()
            later.recall(orjson.loads(orjson.dumps(some.remembered())))
            some = later
        found = plan(want, some, 5)
        for engine in found.changed:
            some.put(engine)
        for each in found.missing:
            try:
                epochs.append(some.admit(each, groups(each.host, each.dp_size)).epoch)
            except NoFreeSlot:
                assert some.num_free < each.dp_size
        some.check_integrity()
        again = plan(want, some, 5)
        assert again.changed == []
        serving = [each.url for each in some if not each.is_leaving]
        assert sorted(serving + [each.url for each in again.missing]) == sorted(want)
    assert all(early < late for early, late in itertools.pairwise(epochs))
