"""What a leader writes of a plan is what its followers read."""

from hypothesis import given
from hypothesis import strategies as st

from workers.engine.batch import Place
from workers.lockstep.plan_words import PlanReader, PlanWriter

PAGE_SIZE = 4


def place(request_id, start, num_new, pages):
    return Place(request_id, start, num_new, tuple(pages), ())


@st.composite
def _plans(draw):
    """Plans in a row: requests come, grow, miss steps, are retracted and end."""
    tables, plans = {}, []
    for _ in range(draw(st.integers(1, 8))):
        plan = []
        for request_id in draw(st.lists(st.integers(0, 4), max_size=4, unique=True)):
            pages = tables.get(request_id, [])
            if draw(st.integers(0, 4)) == 0:
                pages = pages[: draw(st.integers(0, len(pages)))]
            pages = pages + draw(st.lists(st.integers(0, 2**40), max_size=3))
            tables[request_id] = pages
            start = draw(st.integers(0, 1000))
            plan.append(place(request_id, start, draw(st.integers(1, 3)), pages))
        tokens = draw(st.lists(st.integers(0, 2**31), min_size=len(plan), max_size=9))
        plans.append((plan, tokens if plan else []))
    return plans


@given(_plans())
def test_followers_read_what_was_written(plans):
    """
    Of plans in a row, whose requests come, grow, are taken out, replaced and put back.
    """
    writer, reader = PlanWriter(), PlanReader()

    for places, token_ids in plans:
        sent = reader.read(writer.write(places, token_ids))

        assert sent.places == tuple(places)
        assert sent.token_ids == tuple(token_ids)


def test_a_page_is_sent_once():
    """
    A decode of a long context costs a few words a step, not its page table.
    """
    writer = PlanWriter()
    first = writer.write([place(7, 0, 4000, range(1000))], range(4000))
    grown = writer.write([place(7, 4000, 1, range(1001))], [5])
    same = writer.write([place(7, 4001, 1, range(1001))], [6])

    assert len(first) == 1 + 5 + 1000 + 4000
    assert grown == [1, 7, 4000, 1, 1000, 1, 1000, 5]
    assert same == [1, 7, 4001, 1, 1001, 0, 6]


def test_a_table_that_was_replaced_is_sent_whole():
    """
    As after a retraction, even if the new one is longer.
    """
    writer, reader = PlanWriter(), PlanReader()
    reader.read(writer.write([place(1, 0, 8, [4, 5])], range(8)))

    words = writer.write([place(1, 0, 9, [5, 4, 6])], range(9))

    assert words[4:9] == [0, 3, 5, 4, 6]
    assert reader.read(words).places[0].pages == (5, 4, 6)


def test_a_plan_of_nothing_takes_no_word():
    """
    There is nothing to send then.
    """
    assert PlanWriter().write([], []) == []
