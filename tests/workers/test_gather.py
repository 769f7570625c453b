from shm.load import Accepted, LoadReport
from tests.workers.fakes import ListWriter, StepClock
from workers.ranks.gather import Newest, Publisher


def report(dp_rank, holding_tokens=0):
    scalars = dict.fromkeys(LoadReport._fields[:-1], 0)
    scalars |= {"dp_rank": dp_rank, "holding_tokens": holding_tokens}
    return LoadReport(**scalars, accepted=(Accepted(0, 0, 0),))


def test_only_the_newest_report_of_a_group_is_kept():
    """
    A reader that is behind gets one report of each group, the last.
    """
    newest = Newest()
    for holding_tokens in (1, 2, 3):
        newest.put(report(0, holding_tokens))
    newest.put(report(1, 9))

    assert newest.take() == [report(0, 3), report(1, 9)]


def test_each_record_has_the_last_report_of_every_group():
    """
    A group that is slow, or gone, stays in the record as it last was.
    """
    writer = ListWriter()
    publisher = Publisher(writer, StepClock())
    publisher.put(report(0, 1))
    publisher.publish()
    publisher.put(report(1, 5))
    publisher.publish()
    publisher.put(report(0, 2))
    publisher.publish()

    assert writer.records == [
        ((report(0, 1),), 1),
        ((report(0, 1), report(1, 5)), 2),
        ((report(0, 2), report(1, 5)), 3),
    ]
