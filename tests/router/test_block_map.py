"""What is known of a rank's cache from its events, against real ones and against a naive count."""

import base64
import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balancer.prefix_index import Change, PrefixEvent
from router.control_plane.kv_events.block_map import BlockMap, Unchained
from router.control_plane.kv_events.condition import KvTally, Unused
from router.control_plane.kv_events.decoding import decoded
from router.control_plane.kv_events.events import AllCleared, BlocksRemoved, BlocksStored
from shm.page_digest import page_digests

RECORDED = json.loads((Path(__file__).parent / "recorded" / "vllm-kv-events.json").read_text())
BATCHES = [base64.b64decode(payload) for _, payload in RECORDED["batches"]]
TOKENS = list(range(12))
DIGESTS = page_digests(TOKENS, 4)
STORED = BlocksStored([11, 12, 13], None, TOKENS, 4)


def a_map(*events, counts_copies=True, **limits):
    blocks = BlockMap(KvTally(), counts_copies=counts_copies, **limits)
    for event in events:
        blocks.take(event)
        blocks.check_integrity()
    return blocks


def unused(blocks):
    return {reason: count for reason, count in blocks._tally.unused.items() if count}


def test_what_a_real_engine_tells_is_known_after_each_batch():
    """
    By its hashes, whose copies are counted; salted blocks are known to nobody.
    """
    blocks, copies, digests, salted = a_map(), Counter(), {}, set()
    for payload in BATCHES:
        for event in decoded(payload):
            blocks.take(event)
            if isinstance(event, BlocksStored):
                before = 0 if event.parent is None else digests[event.parent]
                named = page_digests(event.tokens, 32, before)
                digests |= dict(zip(event.hashes, named, strict=True))
                copies.update(event.hashes)
                salted |= set(event.hashes) if any(event.extra_keys) else set()
            elif isinstance(event, BlocksRemoved):
                copies.subtract(event.hashes)
            else:
                copies.clear()
        blocks.check_integrity()
        held = {name for name, count in copies.items() if count > 0}
        assert set(blocks.digests) == {digests[name] for name in held - salted}
    assert (len(blocks), blocks.page_size) == (2, 32)
    assert unused(blocks) == {Unused.EXTRA_KEYS: 2}


def test_real_evictions_leave_what_the_engine_has_room_for():
    """
    Before it is told to clear all: 63 blocks, which its one null block is not among.
    """
    blocks = a_map(*(event for payload in BATCHES[:-1] for event in decoded(payload)))

    assert 40 < len(blocks) <= 63


def test_pages_have_the_digests_of_prompts_and_hold_whatever_follows():
    """
    A block's digest follows from its parent's.
    """
    blocks = a_map(STORED)
    more = page_digests([*TOKENS, 7, 7, 7, 7], 4)

    assert set(blocks.digests) == set(DIGESTS)
    told = blocks.take(BlocksStored([14], 13, [7, 7, 7, 7], 4))
    assert told == PrefixEvent(Change.STORED, [more[3]])


@pytest.mark.parametrize(
    ("event", "reason", "count"),
    [
        (BlocksStored([21], 99, [1, 2, 3, 4], 4), Unused.PARENT, 1),
        (BlocksStored([21], None, [1, 2, 3, 4], 4, has_lora=True), Unused.LORA, 1),
        (BlocksStored([21, 22], None, [1] * 8, 4, extra_keys=[None, ["x"]]), Unused.EXTRA_KEYS, 1),
        (BlocksStored([21], None, [1, 2, 3, 4], 4, medium="CPU"), Unused.MEDIUM, 1),
        (BlocksStored([21], None, [1] * 4, 4, attention="mamba"), Unused.ATTENTION, 1),
        (BlocksStored([21], None, [1] * 4, 4, group=1), Unused.ATTENTION, 1),
        (BlocksStored([21, 22], None, [1] * 4, 2), Unused.BLOCK_SIZE, 2),
        (BlocksStored([21, 22], None, [1] * 4, 4), Unused.TOKENS, 2),
        (BlocksStored([21], None, [(1, 2)] * 4, 4), Unused.TOKENS, 1),
        (BlocksStored([21], None, [-1] * 4, 4), Unused.TOKENS, 1),
        (BlocksStored([21], None, [1 << 32] * 4, 4), Unused.TOKENS, 1),
    ],
)
def test_a_block_that_plain_prompts_cannot_find_is_counted_and_not_used(event, reason, count):
    """
    For the reason that is told, and what was known is known.
    """
    blocks = a_map(STORED, event)

    assert unused(blocks) == {reason: count}
    assert set(DIGESTS) <= set(blocks.digests)
    assert 21 not in {n for n in blocks._blocks} or reason is Unused.EXTRA_KEYS


def test_what_follows_a_block_that_is_not_used_is_not_used_either():
    """
    Its parent is not known.
    """
    blocks = a_map(BlocksStored([1], None, [1] * 4, 4, extra_keys=[["salt"]]))
    blocks.take(BlocksStored([2], 1, [2] * 4, 4))

    assert unused(blocks) == {Unused.EXTRA_KEYS: 1, Unused.PARENT: 1}
    assert blocks.digests == []


def test_a_page_is_there_as_long_as_one_copy_of_it_is():
    """
    Two requests that computed the same prompt at once.
    """
    blocks = a_map(STORED, STORED)

    assert blocks.take(BlocksRemoved([12, 13])) is None
    assert set(blocks.digests) == set(DIGESTS)
    assert blocks.take(BlocksRemoved([13])) == PrefixEvent(Change.EVICTED, [DIGESTS[2]])
    assert blocks.take(BlocksRemoved([13, 99])) is None


def test_a_page_of_two_hashes_is_there_as_long_as_one_of_them_is():
    """
    It is told once, and its end once.
    """
    blocks = a_map(STORED)

    assert blocks.take(STORED._replace(hashes=[21, 22, 23])) is None
    assert blocks.take(BlocksRemoved([11, 12, 13])) is None
    gone = blocks.take(BlocksRemoved([21, 22, 23]))
    assert gone == PrefixEvent(Change.EVICTED, DIGESTS)


def test_a_tree_holds_nothing_twice_whatever_it_tells():
    """
    Not that of an engine without copies.
    """
    blocks = a_map(STORED, STORED, counts_copies=False)

    assert blocks.take(BlocksRemoved([13])) == PrefixEvent(Change.EVICTED, [DIGESTS[2]])


@pytest.mark.parametrize("removed", [{"medium": "CPU"}, {"group": 2}])
def test_what_is_removed_elsewhere_stays_here(removed):
    """
    From the host's memory, or for other layers.
    """
    blocks = a_map(STORED, BlocksRemoved([11, 12, 13], **removed))

    assert set(blocks.digests) == set(DIGESTS)


def test_one_hash_of_two_beginnings_ends_all_trust():
    """
    Then a hash does not say what is cached.
    """
    with pytest.raises(Unchained):
        a_map(STORED, BlocksStored([12], None, [9] * 4, 4))


def test_more_blocks_than_there_is_room_for_are_not_added_until_some_go():
    """
    Nor what would follow them.
    """
    blocks = a_map(STORED, max_blocks=2)
    assert (blocks.digests, unused(blocks)) == (DIGESTS[:2], {Unused.ROOM: 1})

    blocks.take(BlocksRemoved([12]))
    blocks.take(BlocksStored([31], None, [5] * 4, 4))
    assert len(blocks) == 2


def test_a_hash_may_be_bytes():
    """
    As vLLM has them where they are not cut to 64 bits.
    """
    blocks = a_map(BlocksStored([b"a" * 32], None, [1] * 4, 4), BlocksRemoved([b"a" * 32]))

    assert blocks.digests == []


# Prompts over two letters, in pages of one token; an engine's hash is the text itself.
PROMPTS = st.text("ab", min_size=1, max_size=4)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("store"), PROMPTS),
        st.tuples(st.just("remove"), PROMPTS),
        st.tuples(st.just("clear"), st.just("")),
    ),
    max_size=40,
)


@given(STEPS)
def test_any_story_leaves_what_a_naive_count_has(steps):
    """
    Told as it changes, too: whoever adds and takes off what is told has the same.
    """
    blocks, copies, told = a_map(), Counter(), set()
    for kind, text in steps:
        change = blocks.take(_event(kind, text))
        _count(copies, kind, text)
        told = _applied(told, change)
        blocks.check_integrity()
        held = {_digest(name) for name, count in copies.items() if count > 0}
        assert told == set(blocks.digests) == held


def _event(kind, text):
    if kind == "store":
        hashes = [_hash(text[: n + 1]) for n in range(len(text))]
        return BlocksStored(hashes, None, [ord(letter) for letter in text], 1)
    return BlocksRemoved([_hash(text)]) if kind == "remove" else AllCleared()


def _count(copies, kind, text):
    if kind == "store":
        copies.update(text[: n + 1] for n in range(len(text)))
    elif kind == "remove":
        copies[text] = max(0, copies[text] - 1)
    else:
        copies.clear()


def _applied(told, change):
    if change is None:
        return told
    if change.change is Change.BEGUN:
        return set()
    digests = set(change.digests)
    return told | digests if change.change is Change.STORED else told - digests


def _hash(text):
    return text.encode()


def _digest(text):
    return page_digests([ord(letter) for letter in text], 1)[-1]
