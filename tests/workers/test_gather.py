import queue

import pytest

from shm.errors import SegmentError
from shm.load import Accepted, LoadReport
from tests.workers.fakes import FailingLink, ListWriter, StepClock
from workers.errors import LinkLost
from workers.ranks.gather import Newest, Publisher, ReportReceivers, ReportSender

LIMIT_S = 60.0


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
    writer, fatal = ListWriter(), []
    publisher = Publisher(writer, StepClock(), fatal.append)
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


class FullWriter:
    """A load segment that takes nothing."""

    def publish(self, reports, published_ns):
        raise SegmentError("torn down")


def test_a_segment_that_cannot_be_written_is_fatal():
    """
    The publishing thread does not die unnoticed.
    """
    fatal = queue.Queue()
    publisher = Publisher(FullWriter(), StepClock(), fatal.put)

    publisher.start()
    publisher.put(report(0))

    assert isinstance(fatal.get(timeout=LIMIT_S), SegmentError)


def sending(link, on_fatal):
    sender = ReportSender(link, on_fatal)
    sender.put(report(0))
    return sender


def receiving(link, on_fatal):
    return ReportReceivers({1: link}, 1, Publisher(ListWriter(), StepClock(), on_fatal), on_fatal)


@pytest.mark.parametrize("make", [sending, receiving])
def test_what_breaks_a_thread_other_than_a_lost_peer_is_fatal(make):
    """
    A RuntimeError too: only the link itself says that its peer is gone.
    """
    fatal = queue.Queue()

    make(FailingLink(RuntimeError("no memory")), fatal.put).start()

    assert str(fatal.get(timeout=LIMIT_S)) == "no memory"


@pytest.mark.parametrize("make", [sending, receiving])
def test_a_lost_peer_is_said_once_and_is_not_fatal(make, caplog):
    """
    The thread ends, and the group goes on.
    """
    fatal = []
    link = FailingLink(LinkLost("closed by peer"))

    make(link, fatal.append).start()
    link.thread.get(timeout=LIMIT_S).join(LIMIT_S)

    assert fatal == []
    assert [record.getMessage().split(": ")[-1] for record in caplog.records] == ["closed by peer"]
