import pytest

from tests.workers.fakes import make_report
from workers.ranks.newest import Newest


def test_only_the_newest_report_of_a_group_is_kept():
    """
    A reader that is behind gets one report of each group, the last.
    """
    newest = Newest()
    for sampled_ns in (1, 2, 3):
        newest.put(make_report(0, sampled_ns))
    newest.put(make_report(1, 9))

    assert newest.take() == [make_report(0, 3), make_report(1, 9)]


@pytest.mark.parametrize(
    "late",
    [make_report(0, 4), make_report(0, 9, group_epoch=1)],
    ids=["of the same life", "of an earlier life"],
)
def test_a_report_that_comes_late_replaces_nothing(late):
    """
    One that was put back, or that a dead rank's connection still held.
    """
    newest = Newest()
    newest.put(make_report(0, 5, group_epoch=2))
    newest.put(late._replace(group_epoch=late.group_epoch or 2))

    assert newest.take() == [make_report(0, 5, group_epoch=2)]


def test_a_later_life_of_a_group_is_newer_whatever_its_clock_says():
    """
    The first report of a rank that has come back counts.
    """
    newest = Newest()
    newest.put(make_report(0, 5, group_epoch=1), make_report(0, 1, group_epoch=2))

    assert newest.take() == [make_report(0, 1, group_epoch=2)]
