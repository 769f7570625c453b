import pytest

from shm.errors import SegmentError
from tests.workers.fakes import ListWriter, StepClock, make_report
from workers.ranks.newest import Newest
from workers.ranks.publisher import Publisher


def published(known, *rounds):
    """What is written if these reports come one after the other."""
    newest, writer = Newest(), ListWriter()
    publisher = Publisher(newest, writer, known, StepClock())
    for report in rounds:
        newest.put(report)
        publisher.publish()
    return writer.records


def test_each_record_has_the_last_report_of_every_group():
    """
    A group that is slow, or gone, stays in the record as it last was.
    """
    assert published((), make_report(0, 1), make_report(1, 5), make_report(0, 2)) == [
        ((make_report(0, 1),), 1),
        ((make_report(0, 1), make_report(1, 5)), 2),
        ((make_report(0, 2), make_report(1, 5)), 3),
    ]


def test_what_the_publisher_before_had_published_stays():
    """
    Groups whose leaders have not joined again are in the record, as they last were.
    """
    before = (make_report(0, 7), make_report(2, 8))

    (record, _), *_ = published(before, make_report(1, 9))

    assert record == (*before, make_report(1, 9))


def test_a_late_report_does_not_replace_a_newer_one():
    """
    Two links of one leader may overlap, and the older one is read last.
    """
    records = published((), make_report(0, 5), make_report(0, 4))

    assert [reports for reports, _ in records] == [(make_report(0, 5),)] * 2


class FullWriter:
    """A load segment that takes nothing."""

    def publish(self, reports, published_ns):
        raise SegmentError("torn down")


def test_a_segment_that_cannot_be_written_ends_the_publisher():
    """
    With the cause, which its thread passes on.
    """
    newest = Newest()
    newest.put(make_report(0))

    with pytest.raises(SegmentError, match="torn down"):
        Publisher(newest, FullWriter(), (), StepClock()).run()
