"""Requests through the front door, and what the engines' own counters say of them."""

import openai

from tests.e2e.instance import eventually
from tests.peers.drive import Asked, Leaver, seen_of
from tests.peers.engines import CONTEXT, MODEL

NUM_NAMED = 6  # requests for each group
NUM_CHOSEN = 24
ENDLESS = CONTEXT - 600
"""Tokens that take every engine here minutes, if nobody stops it."""


def landed(site, asked):
    """Send them; the engines' counts of tokens have grown by what our answers say."""
    site.rested()
    before, sent = site.produced(), dispatches(site)
    seen = seen_of(site.door.url, asked)
    expected = list(before)
    for each in seen:
        expected[each.dp_rank] += each.num_tokens - site.places[each.dp_rank].engine.uncounted
    eventually(lambda: site.produced() == expected, f"from {before} to {expected}", 20)
    by_rank = [sum(each.dp_rank == rank for each in seen) for rank in range(len(site.places))]
    assert [now - was for now, was in zip(dispatches(site), sent, strict=True)] == by_rank
    site.rested()
    return seen


def dispatches(site):
    """Requests that the front doors have sent, by dp_rank."""
    name = "levelhead_dispatches_total"
    return [site.door.metric(name, group=str(rank)) for rank in range(len(site.places))]


def test_every_rank_of_every_engine_is_a_group(site):
    """
    And the official client lists the model, and chats.
    """
    assert [load["state"] for load in site.door.loads()] == ["ready"] * len(site.places)
    with openai.OpenAI(base_url=f"{site.door.url}/v1", api_key="none", max_retries=0) as client:
        assert MODEL in [model.id for model in client.models.list()]
        messages = [{"role": "user", "content": "How level is the sea?"}]
        answer = client.chat.completions.create(model=MODEL, messages=messages, max_tokens=8)
    assert answer.choices[0].message.content
    assert answer.usage.completion_tokens in range(1, 9)


def test_requests_land_on_the_rank_that_they_name(site):
    """
    By the engines' own counters: no two requests have the same length.
    """
    asked = [
        Asked(3 + number, dp_rank=number % len(site.places))
        for number in range(NUM_NAMED * len(site.places))
    ]

    seen = landed(site, asked)

    assert [each.dp_rank for each in seen] == [each.dp_rank for each in asked]


def test_requests_land_on_the_rank_that_was_chosen(site):
    """
    Of those that name none: by the engines' own counters, and none of the groups has nothing.
    """
    asked = [Asked(3 + number, (8, 60)[number % 2]) for number in range(NUM_CHOSEN)]

    seen = landed(site, asked)

    assert {each.dp_rank for each in seen} == set(range(len(site.places)))


def test_what_clients_have_left_stops_in_the_engine(site):
    """
    Some while their prompt is computed, some after three tokens, beside others that stay.
    """
    ranks = range(len(site.places))
    site.rested()
    before = sum(site.produced())
    leavers = [
        Leaver(site.door.url, Asked(ENDLESS, 500, rank), number)
        for number, rank in enumerate([*ranks, *ranks])
    ]
    eventually(lambda: in_flight(site) == len(leavers), "they are on their way")
    for leaver in leavers:
        leaver.leave()
    site.rested()
    asked = [Asked(ENDLESS, dp_rank=rank, leaves_after=3) for rank in [*ranks, *ranks]]
    seen = seen_of(site.door.url, [*asked, *(Asked(8, dp_rank=rank) for rank in ranks)], 64)

    assert [each.num_tokens for each in seen] == [3] * len(asked) + [8] * len(ranks)
    site.rested()
    assert sum(site.produced()) - before < ENDLESS, "of all together: less than one had asked for"


def in_flight(site):
    return sum(load["in_flight_requests"] for load in site.door.loads())


def test_figures_agree_with_the_engines_at_rest(site):
    """
    Its own figures are in use, and say that it holds nothing, as it does itself.
    """
    site.rested()
    eventually(lambda: all(not held(load) for load in site.door.loads()), "nothing is held", 20)

    for load in site.door.loads():
        assert load["condition"] is None, load
        assert load["max_total_num_tokens"] >= CONTEXT, load
    for engine in site.engines:
        assert engine.load() == (0, 0, 0)
    assert site.door.metric("levelhead_reading_condition") == 0


def held(load):
    return load["num_running_reqs"] or load["num_waiting_reqs"] or load["num_total_tokens"]
