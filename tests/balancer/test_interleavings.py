"""
The law in every order of a few steps, not in some of them.

Each test gives programs: what one process does, step after step.  All ways to
interleave them are run, each from the beginning, and when front door B has
read, what it believes is compared with the truth (see small_host.py).
"""

from functools import partial

import pytest

from balancer.errors import LedgerBroken
from tests.balancer.small_host import Host, interleavings


def decide(host):
    """The second read, and what is believed after it."""
    host.read_board()
    host.check()


def decide_after_reading_the_wrong_way(host):
    host.read_loads()
    host.check()


def new_host(**options):
    """B knows the groups, and has read what was published and noted until now."""
    host = Host(**options)
    host.publish()
    host.read_table()
    host.read_loads()
    decide(host)
    return host


def run_all(*programs, make_host=new_host):
    """Run every interleaving of the programs; return how many there are."""
    orders = list(interleavings(*map(len, programs)))
    for order in orders:
        host, steps = make_host(), [iter(program) for program in programs]
        for program in order:
            next(steps[program])(host)
    return len(orders)


def at_once(*steps):
    """Several steps as one, where it makes no difference what comes between them."""

    def step(host):
        for each in steps:
            each(host)

    return step


def note(tokens, dp_rank=0):
    return partial(Host.note, tokens=tokens, dp_rank=dp_rank)


CHARGE = [note(5), Host.send]
ACCEPT = [Host.accept, Host.publish]
READ = [Host.read_loads, decide]


def test_every_order_is_run_once():
    """
    As many as the multinomial coefficient says, and no two alike.
    """
    orders = list(interleavings(2, 1, 3))

    assert len(orders) == len(set(orders)) == 60
    assert all([order.count(program) for program in range(3)] == [2, 1, 3] for order in orders)


def test_a_token_is_counted_once_in_whatever_order_it_is_charged_accepted_and_read():
    """
    A notes and sends twice, the group accepts and publishes twice, B reads.
    """
    assert run_all([*CHARGE, note(3), Host.send], ACCEPT * 2, READ) == 3_150


def test_read_the_other_way_round_some_order_counts_it_zero_times():
    """
    Board first, then segment: what the rule is for, and this test would notice.
    """
    with pytest.raises(LedgerBroken, match=r"group 0 has InFlight\(tokens=-5, requests=-1\)"):
        run_all(CHARGE, ACCEPT, [Host.read_board, decide_after_reading_the_wrong_way])


def half_note(num_words):
    return partial(Host.note_and_die_half_way, num_words=num_words)


@pytest.mark.parametrize(
    ("life", "num_orders"),
    [
        ([], 560),
        ([half_note(1)], 1_260),
        ([half_note(-2)], 1_260),
        ([half_note(-1)], 1_260),
        ([note(5)], 1_260),
        (CHARGE, 2_520),
    ],
    ids=[
        "nothing",
        "a word of a note",
        "all but its last two",
        "all but the row's word",
        "a note",
        "a charge",
    ],
)
def test_a_dead_front_door_counts_until_it_is_reclaimed_and_not_longer(life, num_orders):
    """
    Wherever it died, whenever its row is reclaimed; what it had sent is
    accepted before or after, and its next life sends too.
    """
    next_life = [at_once(Host.start_again, note(3)), Host.send]
    group = [*ACCEPT, at_once(*ACCEPT)]

    assert run_all([*life, Host.reclaim, *next_life], group, READ) == num_orders


def test_a_new_life_of_a_group_takes_nothing_over_from_the_old():
    """
    Whoever learns of it first: A, which charges it, or B, which reads.
    """
    charges = [*CHARGE, at_once(Host.learn, note(3))]
    group = [Host.accept, Host.restart_group, Host.list_groups, Host.publish]

    assert run_all(charges, group, [Host.read_table, *READ]) == 4_200


def write(*dp_ranks):
    return lambda host: host.publisher.write(*dp_ranks)


def move(host):
    host.publisher.move()


def host_with_two_groups():
    """Group 1 holds something, and B has seen it."""
    host = Host(num_groups=2)
    for step in (note(7, dp_rank=1), Host.send, partial(Host.accept, dp_rank=1)):
        step(host)
    host.publish()
    host.read_table()
    host.read_loads()
    decide(host)
    return host


def test_a_publisher_that_dies_between_buffer_and_index_is_not_seen():
    """
    The next one writes the same buffer again, and has only one group's report
    at first: the other's stands as it was.
    """
    publishers = [Host.publish, write(0, 1), at_once(Host.take_over, write(0)), move]

    num_orders = run_all(CHARGE, [Host.accept], publishers, READ, make_host=host_with_two_groups)

    assert num_orders == 3_780


def test_stale_figures_are_replaced_by_the_books_as_they_were_noted():
    """
    What streams and what ends is on the board with the next note; and the
    first report that is young enough takes over again.
    """
    grows = partial(Host.stream, tokens=2)
    requests = [note(5), grows, at_once(Host.note_books, note(3)), Host.end, Host.note_books]

    assert run_all(requests, [Host.wait, at_once(*ACCEPT)], [decide, *READ]) == 2_520
