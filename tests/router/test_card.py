from dataclasses import asdict

import orjson
import pytest

from router.card import Card, CardReader
from router.instance import Instance
from shm.process import ProcessId
from tests.descriptors import no_descriptors
from workers.card import Card as LeaderCard

CARD = Card(0, 5, "127.0.0.1", 1000, 11, "m", 2048, "/t", 16, 4096, "ready", 99)


@pytest.fixture
def instance(tmp_path):
    return Instance("one", 1, str(tmp_path), "127.0.0.1", 1, 2)


def written(**changes):
    return orjson.dumps(asdict(CARD) | changes)


def test_a_card_is_read_as_it_was_written(instance):
    """
    With the process that it is of.
    """
    instance.card(0).write_bytes(written())

    card = CardReader(instance).read(0)

    assert card == CARD
    assert (card.process, card.is_draining) == (ProcessId(11, 99), False)


def test_a_leaders_card_is_understood(instance, tmp_path):
    """
    The two rooms share no code, so their words are compared here.
    """
    given = {"dp_rank": 0, "epoch": 5, "host": "::1", "port": 1, "pid": 11, "model": "m",
             "max_model_len": 9, "page_size": 16, "kv_capacity_tokens": 64,
             "tokenizer_dir": "/t", "state": "draining", "start_ticks": 99}  # fmt: skip
    LeaderCard(**given).write(tmp_path)

    card = CardReader(instance).read(0)

    assert asdict(card) == given
    assert card.is_draining


def test_no_card_is_none(instance, caplog):
    """
    Without a word: the group is still loading.
    """
    assert CardReader(instance).read(0) is None
    assert caplog.messages == []


NO_CARDS = [
    (b"", "empty"),
    (b'{"dp_rank":0,"epoch":5,', "line 1 column"),
    (b"\xff\x00", "not valid UTF-8"),
    (b"[]", "a list, not an object"),
    (b"{}", "missing"),
    (written(surprise=1), "unexpected keyword argument 'surprise'"),
    (written(port="1000"), "port is '1000', not int"),
    (written(epoch=None), "epoch is None, not int"),
    (written(pid=True), "pid is True, not int"),
    (written(pid=1.5), "pid is 1.5, not int"),
    (written(tokenizer_dir=3), "tokenizer_dir is 3, not str | None"),
    (written(pid=0), "pid is 0, not 1 to"),
    (written(pid=-1), "pid is -1, not 1 to"),
    (written(pid=2**31), "not 1 to 2147483647"),
    (written(port=65_536), "port is 65536, not 1 to 65535"),
    (written(epoch=0), "epoch is 0, not 1 to"),
    (written(dp_rank=1), "it is group 1's"),
]


@pytest.mark.parametrize(("content", "reason"), NO_CARDS)
def test_what_is_no_card_counts_as_none_with_one_warning(instance, caplog, content, reason):
    """
    Naming the file and what is wrong, once and not at every look.
    """
    instance.card(0).write_bytes(content)
    reader = CardReader(instance)

    assert [reader.read(0) for _ in range(3)] == [None, None, None]

    (told,) = caplog.messages
    assert told.startswith(f"{instance.card(0)} is no card and counts as none: ")
    assert reason in told


def test_what_is_wrong_anew_is_told_anew(instance, caplog):
    """
    After other nonsense, and after a good card between.
    """
    reader = CardReader(instance)
    for content in (b"[]", b"{}", written(), b"{}"):
        instance.card(0).write_bytes(content)
        reader.read(0)

    assert len(caplog.messages) == 3


def test_a_card_that_cannot_be_read_is_the_one_before_with_one_warning(instance, caplog):
    """
    Who may open no more files learns nothing of a leader; each spell is told once.
    """
    instance.card(0).write_bytes(written())
    reader = CardReader(instance)
    assert reader.read(0) == CARD

    for _ in range(2):
        with no_descriptors():
            assert [reader.read(0) for _ in range(3)] == [CARD] * 3
        assert reader.read(0) == CARD

    assert len(caplog.messages) == 2
    assert caplog.messages[0].startswith(f"{instance.card(0)} cannot be read, the last card counts")


def test_a_card_that_was_taken_away_is_not_remembered(instance):
    """
    Only one that cannot be read is.
    """
    instance.card(0).write_bytes(written())
    reader = CardReader(instance)
    reader.read(0)
    instance.card(0).unlink()
    assert reader.read(0) is None

    with no_descriptors():
        assert reader.read(0) is None
