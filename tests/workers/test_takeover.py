"""The load reports of real ranks, while the one that publishes them is killed or stopped."""

import signal

import httpx
import pytest

from tests.workers.ranks_rig import Ranks, wait_for

pytestmark = pytest.mark.slow
ANSWER = {"prompt": [40, 41, 42], "max_tokens": 3}


@pytest.fixture(name="ranks")
def _ranks(tiny_llama, tmp_path):
    ranks = Ranks(tiny_llama, tmp_path, num_ranks=3)
    for rank in range(3):
        ranks.url(rank)  # which waits for its card
    ranks.wait_for_fresh_reports(0, 1, 2)
    yield ranks
    ranks.close()


def test_another_leader_publishes_when_the_publisher_is_killed(ranks):
    """
    The survivors' figures are fresh again, the dead one's last report stands, and
    when its rank comes back it joins the publisher of the day, in a new epoch.
    """
    first = ranks.term()
    assert (first["term"], first["dp_rank"]) == (1, 0)
    sequence = ranks.reader.current_sequence

    ranks.kill(0)

    ranks.wait_for_fresh_reports(1, 2)
    second = ranks.term()
    assert second["term"] == 2
    assert second["dp_rank"] in (1, 2)
    assert second["epoch"] == ranks.card(second["dp_rank"])["epoch"]
    assert ranks.report(0).group_epoch == first["epoch"], "the last report of the dead rank stands"
    assert ranks.reader.current_sequence > sequence, "the sequence is continued"

    ranks.restart(0)
    ranks.wait_for_report(0, "new epoch", lambda r: r.group_epoch > first["epoch"])
    assert ranks.term() == second

    ranks.kill(second["dp_rank"])
    ranks.wait_for_fresh_reports(*{0, 1, 2} - {second["dp_rank"]})
    assert ranks.term()["term"] == 3


def test_a_publisher_that_is_stopped_publishes_again_when_it_is_continued(ranks):
    """
    Meanwhile nobody takes its place, and the others serve.
    """
    term, url = ranks.term(), ranks.url(1)

    ranks.signal(0, signal.SIGSTOP)
    sequence = ranks.reader.current_sequence
    for _ in range(3):
        assert httpx.post(f"{url}/v1/completions", json=ANSWER).status_code == 200
    assert ranks.reader.current_sequence - sequence <= 1, "but one that was under way"
    ranks.signal(0, signal.SIGCONT)

    ranks.wait_for_fresh_reports(0, 1, 2)
    assert ranks.term() == term


def test_a_publisher_that_is_killed_while_it_is_stopped_is_replaced(ranks):
    """
    The leaders that waited for it, and one that had just begun to join, are not stuck.
    """
    ranks.signal(0, signal.SIGSTOP)
    ranks.kill(1)
    ranks.restart(1)
    wait_for("later epoch", lambda: ranks.card(1)["epoch"] > ranks.report(1).group_epoch)

    ranks.kill(0)

    ranks.wait_for_fresh_reports(1, 2)
    assert ranks.term()["term"] == 2


def test_a_leader_that_is_killed_is_no_concern_of_the_others(ranks):
    """
    Their reports go on, and it rejoins the same term.
    """
    term, epoch = ranks.term(), ranks.card(2)["epoch"]

    ranks.kill(2)
    ranks.wait_for_fresh_reports(0, 1)
    ranks.restart(2)

    ranks.wait_for_report(2, "new epoch", lambda r: r.group_epoch > epoch)
    assert ranks.term() == term
