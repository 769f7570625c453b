"""
Leaders join a publisher, over real stores and gloo groups, in threads of one process.

What becomes of processes that are killed or stopped is in test_takeover.
"""

import socket
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from workers.errors import LinkLost
from workers.ranks.door import Door, join
from workers.ranks.links import choose_interface
from workers.ranks.term import Term

pytestmark = pytest.mark.slow  # torch's stores and sockets
HOST = "127.0.0.1"


def listening():
    listener = socket.create_server((HOST, 0))
    return listener, listener.getsockname()[1]


@pytest.fixture(name="term")
def _term(monkeypatch):
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "")
    monkeypatch.delenv("GLOO_SOCKET_IFNAME")
    choose_interface(HOST)
    listener, port = listening()
    term = Term(1, dp_rank=0, epoch=9, host=HOST, port=port)
    return term, Door(listener, term)


def sent_over(link, number):
    link.send(torch.tensor([number]))
    return number


def heard_on(door, name):
    words = torch.zeros(1, dtype=torch.int64)
    door.open(name).receive(words)
    return words.item()


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
            words = torch.zeros(1, dtype=torch.int64)
            link.receive(words)
            assert words.item() == leader.result() == number
            del leader  # and with it the leader's side
            with pytest.raises(LinkLost):
                link.receive(words)


def test_where_nobody_listens_nobody_is_found():
    """
    At once: that is what a publisher that has died looks like.
    """
    listener, port = listening()
    listener.close()

    with pytest.raises(LinkLost, match="refused"):
        join(Term(1, 0, 9, HOST, port))


def test_the_store_is_reached_at_the_publishers_address_only(term):
    """
    It listens on the socket that it is given, and on no other interface.
    """
    term, _ = term

    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.2", term.port), 1)
