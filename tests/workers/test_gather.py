import queue
import re
import threading

import pytest

from shm.load import LoadReport
from tests.workers.fakes import make_report
from workers.errors import LinkLost, ReportRefused
from workers.ranks.gather import ReportReceivers, ReportSender
from workers.ranks.newest import Newest
from workers.ranks.thread import start_thread

LIMIT_S = 60.0
NUM_GROUPS = 4


class ScriptedLink:
    """A link that gets through as often as it is told, calls each time, and then fails."""

    def __init__(self, num_sends, on_send=None, on_failure=None, error=None):
        self.sent = []
        self.is_closed = False
        self._num_sends = num_sends
        self._on_send = on_send
        self._on_failure = on_failure
        self._error = error or LinkLost("closed by peer")

    def send(self, words):
        if len(self.sent) < self._num_sends:
            self.sent.append(LoadReport.from_words(words))
            return self._on_send and self._on_send()
        if self._on_failure:
            self._on_failure()
        raise self._error

    def close(self):
        self.is_closed = True


class ReportingLink:
    """A link on which these reports come, and then nothing more."""

    def __init__(self, *reports, error=None):
        self._reports = list(reports)
        self._error = error or LinkLost("closed by peer")
        self.is_closed = False

    def receive(self, num_words):
        if not self._reports:
            raise self._error
        words = list(self._reports.pop(0).to_words())
        assert len(words) == num_words
        return words

    def close(self):
        self.is_closed = True


class Rounds:
    """An entrance with these rounds; after the last nobody comes.  links: by name."""

    def __init__(self, links, *rounds):
        self._links = links
        self._rounds = queue.SimpleQueue()
        for names in rounds:
            self._rounds.put(names)

    def next_round(self):
        return self._rounds.get()

    def open(self, name):
        link = self._links[name]
        if isinstance(link, Exception):
            raise link
        return link


def send(newest, *links, won):
    """Run a sender that finds these links one after the other, until won is set."""
    found = iter(links)
    fatal = []
    ReportSender(newest, lambda: next(found), won, fatal.append).run()
    assert fatal == []


def test_a_report_whose_send_failed_goes_to_the_next_publisher(caplog):
    """
    It is put back, and each lost link is said once.
    """
    newest, won = Newest(), threading.Event()
    newest.put(make_report(0, 1))
    next_link = ScriptedLink(1, on_send=lambda: newest.put(make_report(0, 2)), on_failure=won.set)

    lost = ScriptedLink(0)
    send(newest, lost, next_link, won=won)

    assert lost.is_closed
    assert next_link.is_closed
    assert next_link.sent == [make_report(0, 1)]
    assert newest.take() == [make_report(0, 2)], "for the leader itself, which publishes now"
    assert caplog.text.count("is lost: closed by peer") == 2


def test_a_report_whose_send_failed_gives_way_to_a_newer_one():
    """
    The step loop went on while the send was failing.
    """
    newest, won = Newest(), threading.Event()
    newest.put(make_report(0, 1))

    def newer():
        newest.put(make_report(0, 2))
        won.set()

    send(newest, ScriptedLink(0, on_failure=newer), won=won)

    assert newest.take() == [make_report(0, 2)]


def test_a_leader_that_publishes_itself_sends_no_more():
    """
    What is left is for its publisher to take.
    """
    newest, won = Newest(), threading.Event()
    newest.put(make_report(0, 1))
    won.set()

    send(newest, won=won)

    assert newest.take() == [make_report(0, 1)]


def test_a_sender_that_finds_nobody_waits_for_its_own_turn():
    """
    Winning the lock ends the wait at once.
    """
    newest, won = Newest(), threading.Event()
    asked = []

    def find():
        asked.append(1)
        won.set()

    ReportSender(newest, find, won, on_fatal=asked.append).run()

    assert asked == [1]


def receivers(newest, entrance, on_fatal):
    return ReportReceivers(newest, entrance, NUM_GROUPS, 1, on_fatal)


def test_a_lost_link_is_said_once_with_its_group(caplog):
    """
    The reports that came before count.
    """
    newest = Newest()
    link = ReportingLink(make_report(3, 1), make_report(3, 2))

    receivers(newest, Rounds({"0.1": link}), on_fatal=None).run("0.1")

    assert link.is_closed
    assert newest.take() == [make_report(3, 2)]
    assert [record.getMessage() for record in caplog.records] == [
        "the link on which group 3 sent load reports is lost: closed by peer"
    ]


@pytest.mark.parametrize(
    ("reports", "message"),
    [
        ([make_report(NUM_GROUPS)], "a leader that had joined is dropped,.*dp_rank 4, of 4 groups"),
        ([make_report(-1)], "a leader that had joined is dropped,.*dp_rank -1, of 4 groups"),
        ([make_report(1), make_report(2)], "group 1 is dropped,.*dp_rank 2, after 1"),
        ([make_report(1)], "group 1 is dropped,.*too short"),
    ],
    ids=["above", "below", "another's", "no report"],
)
def test_what_is_no_report_of_a_links_leader_ends_the_link(caplog, reports, message):
    """
    With a warning; it is not published, and nothing else ends.
    """
    newest = Newest()
    newest.put(make_report(0))
    link = ReportingLink(*reports, error=ReportRefused("it is too short"))

    receivers(newest, Rounds({"0.1": link}), on_fatal=None).run("0.1")

    assert link.is_closed
    assert {report.dp_rank for report in newest.take()} <= {0, 1}
    assert len(caplog.records) == 1
    assert re.search(message, caplog.text)


def test_a_leader_that_dies_while_it_joins_keeps_nobody_out():
    """
    The others of its round, and of the next, are received.
    """
    came, fatal = queue.SimpleQueue(), []

    class Sink:
        put = came.put

    links = {
        "0.1": LinkLost("nobody came"),
        "0.2": ReportingLink(make_report(2)),
        "1.1": ReportingLink(make_report(1)),
    }
    receivers(Sink(), Rounds(links, ["0.1", "0.2"], ["1.1"]), fatal.append).start()

    heard = {came.get(timeout=LIMIT_S).dp_rank for _ in range(2)}
    assert heard == {1, 2}
    assert fatal == []


def broken_sender(error, on_fatal):
    newest = Newest()
    newest.put(make_report(0))
    link = ScriptedLink(0, error=error)
    return ReportSender(newest, lambda: link, threading.Event(), on_fatal)


def broken_receiver(error, on_fatal):
    return receivers(Newest(), Rounds({"0.1": ReportingLink(error=error)}, ["0.1"]), on_fatal)


def broken_entrance(error, on_fatal):
    class Broken:
        def next_round(self):
            raise error

    return receivers(Newest(), Broken(), on_fatal)


@pytest.mark.parametrize("make", [broken_sender, broken_receiver, broken_entrance])
def test_what_breaks_a_thread_other_than_a_lost_link_is_fatal(make):
    """
    A RuntimeError too: only the link itself says that its peer is gone.
    """
    fatal = queue.SimpleQueue()

    make(RuntimeError("no memory"), fatal.put).start()

    assert str(fatal.get(timeout=LIMIT_S)) == "no memory"


def test_a_thread_that_ends_normally_is_not_fatal():
    """
    A sender whose leader publishes is no loss.
    """
    fatal, ended = [], threading.Event()

    start_thread("short", ended.set, fatal.append)

    assert ended.wait(LIMIT_S)
    assert fatal == []
