"""
Leaders join a publisher, over real stores and gloo groups, in threads of one process.

What becomes of processes that are killed or stopped is in test_takeover.
"""

import socket
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import timedelta

import pytest
import torch.distributed as dist

from workers.errors import LinkLost, ReportRefused
from workers.ranks.door import Door, join, wait_for_key
from workers.ranks.links import Link, Side, choose_interface
from workers.ranks.term import Term

pytestmark = pytest.mark.slow  # torch's stores and sockets
HOST = "127.0.0.1"
SEAL = "0f" * 16


def listening():
    listener = socket.create_server((HOST, 0))
    return listener, listener.getsockname()[1]


@pytest.fixture(name="term")
def _term(monkeypatch):
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "")
    monkeypatch.delenv("GLOO_SOCKET_IFNAME")
    choose_interface(HOST)
    listener, port = listening()
    term = Term(1, dp_rank=0, epoch=9, host=HOST, port=port, seal=SEAL)
    return term, Door(listener, term)


def sent_over(link, number):
    link.send([number])
    return number


def heard_on(door, name):
    (word,) = door.open(name).receive(1)
    return word


def let_in(door, num_leaders):
    names = []
    while len(names) < num_leaders:
        names += door.next_round()
    return names


def test_leaders_that_join_at_the_same_moment_have_a_link_each(term):
    """
    However they fall into rounds, none shares a link, and none is left out.
    """
    term, door = term
    with ThreadPoolExecutor(8) as pool:
        senders = [pool.submit(lambda i: sent_over(join(term), i), i) for i in range(4)]
        names = let_in(door, 4)
        heard = [pool.submit(heard_on, door, name) for name in names]

        assert sorted(future.result() for future in heard) == [0, 1, 2, 3]
        assert sorted(future.result() for future in senders) == [0, 1, 2, 3]
    assert len(set(names)) == 4


def test_a_leader_joins_again_after_its_link_is_gone(term):
    """
    Each time on a link of its own; the one that is gone is lost for the publisher.
    """
    term, door = term
    with ThreadPoolExecutor(2) as pool:
        for number in (1, 2, 3):
            leader = pool.submit(lambda i: sent_over(join(term), i), number)
            (name,) = let_in(door, 1)
            link = door.open(name)
            assert link.receive(1) == [leader.result()] == [number]
            del leader  # and with it the leader's side
            with pytest.raises(LinkLost):
                link.receive(1)


LONG, MIDDLE, SHORT = timedelta(seconds=60), timedelta(seconds=1), timedelta(seconds=0.05)


def pair(seals=(SEAL, SEAL), limits=(LONG, LONG)):
    """Both sides of a link that needs no door."""
    store = dist.HashStore()
    with ThreadPoolExecutor(2) as pool:
        sides = zip(Side, seals, limits, strict=True)
        made = [pool.submit(Link, store, "0.1", *side) for side in sides]
        return [future.result() for future in made]


@pytest.mark.parametrize("end", [Link.close, lambda link: link.receive(1)], ids=["close", "limit"])
def test_a_link_that_is_closed_or_given_up_is_lost_for_the_other_side_too(term, end):
    """
    So the leader joins again; here the publisher waits for a report that does not
    come in time, or closes the link.  A send into a receive that was just given up
    may not be told (see links), and is lost after its own limit.
    """
    term, door = term
    publisher, leader = pair(limits=(SHORT, MIDDLE))

    with suppress(LinkLost):
        end(publisher)

    with pytest.raises(LinkLost, match=r"closed by peer|Timed out waiting 1000ms"):
        leader.send([1])
    with ThreadPoolExecutor(1) as pool:
        again = pool.submit(lambda: sent_over(join(term), 2))
        (name,) = let_in(door, 1)
        assert heard_on(door, name) == again.result() == 2


@pytest.mark.parametrize(
    ("seals", "words"), [((SEAL, "f0" * 16), [7, 8]), ((SEAL, SEAL), [7])], ids=["seal", "length"]
)
@pytest.mark.usefixtures("term")
def test_what_is_not_sealed_is_refused(seals, words):
    """
    A stranger's report, and one that is too short.
    """
    publisher, leader = pair(seals=seals)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(leader.send, words)

        with pytest.raises(ReportRefused):
            publisher.receive(2)


class Quiet:
    """A store in which a key is there at the third wait."""

    def __init__(self):
        self.waits = []

    def wait(self, keys, limit):
        self.waits.append((keys, limit))
        if len(self.waits) < 3:
            raise dist.DistStoreError("wait timeout")


def test_a_door_that_nobody_comes_to_for_long_goes_on_waiting():
    """
    A wait that is over is followed by the next; twice nobody came.
    """
    store, limit = Quiet(), timedelta(milliseconds=1)

    wait_for_key(store, "round-0", limit)

    assert store.waits == [(["round-0"], limit)] * 3


def test_where_nobody_listens_nobody_is_found():
    """
    At once: that is what a publisher that has died looks like.
    """
    listener, port = listening()
    listener.close()

    with pytest.raises(LinkLost, match="refused"):
        join(Term(1, 0, 9, HOST, port, SEAL))


def test_the_store_is_reached_at_the_publishers_address_only(term):
    """
    It listens on the socket that it is given, and on no other interface.
    """
    term, _ = term

    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.2", term.port), 1)
