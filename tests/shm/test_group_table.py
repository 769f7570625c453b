import pytest

from shm import group_table
from shm.double_buffer import DoubleBufferWriter
from shm.errors import InvalidRecord, PayloadTooLarge
from shm.group_table import GroupEntry, GroupState, GroupTableReader, GroupTableWriter

READY = GroupEntry(0, GroupState.READY, 7, "127.0.0.1", 4000, "ä model", 8192, "/run/tokenizer")
UNKNOWN = GroupEntry(1, GroupState.STARTING)


@pytest.fixture(name="created")
def _created(instance):
    created = group_table.create(instance, max_groups=2, epoch=1)
    yield created
    created.close()


@pytest.fixture(name="writer")
def _writer(created, instance):
    writer = GroupTableWriter.attach(instance)
    yield writer
    writer.close()


@pytest.fixture(name="reader")
def _reader(created, instance):
    reader = GroupTableReader.attach(instance)
    yield reader
    reader.close()


def test_a_table_reads_back_as_it_was_published(writer, reader):
    """
    Every field of an entry, known or not, and a sequence that tells when to look.
    """
    assert (reader.snapshot(), reader.current_sequence) == (None, 0)

    writer.publish([READY, UNKNOWN], published_ns=1)

    table = reader.snapshot()
    assert (table.sequence, table.groups) == (1, (READY, UNKNOWN))
    assert reader.current_sequence == 1
    assert table.groups[0].state is GroupState.READY


@pytest.mark.parametrize("state", GroupState)
def test_every_state_survives_the_way(writer, reader, state):
    """
    A state is a word in the segment and a GroupState on both sides.
    """
    writer.publish([GroupEntry(0, state)], published_ns=1)

    assert reader.snapshot().groups[0].state is state


def test_the_last_table_is_the_table(writer, reader):
    """
    A group that is left out is gone.
    """
    writer.publish([READY, UNKNOWN], published_ns=1)
    writer.publish([UNKNOWN], published_ns=2)

    assert reader.snapshot().groups == (UNKNOWN,)


def test_a_table_that_does_not_fit_is_refused(writer, reader):
    """
    The table that was there stays.
    """
    writer.publish([READY], published_ns=1)

    with pytest.raises(PayloadTooLarge, match="bytes to publish, room for 4608"):
        writer.publish([READY] * 100, published_ns=2)
    assert reader.snapshot().groups == (READY,)


def test_the_longest_row_that_flags_can_tell_fits(writer, reader):
    """
    Names of hosts and models and a path as long as they may be, in every row.
    """
    host, place = "h" * 253, "tcp://" + "h" * 253 + ":65535"
    row = GroupEntry(
        1023, GroupState.DRAINING, 1 << 62, host, 65535, engine="levelhead", engine_rank=1023,
        models=("m" * 476,), load_factor=10000 / 3, tls="/" + "p" * 199, kv_events=place,
        kv_replay=place, ready_since_ns=1 << 62,
    )  # fmt: skip

    writer.publish([row, row], published_ns=1)

    assert reader.snapshot().groups == (row, row)


@pytest.mark.parametrize(
    "body",
    [
        b"\xff",
        b"7",
        b"[1]",
        b'[{"dp_rank": 0}]',
        b'[{"dp_rank": 0, "state": "asleep"}]',
        b'[{"dp_rank": 0, "state": "ready", "colour": "red"}]',
    ],
    ids=["no JSON", "no list", "no rows", "no state", "no such state", "no such field"],
)
def test_what_is_not_a_table_is_refused(created, reader, body):
    """
    Another version's fields are not guessed at.
    """
    DoubleBufferWriter(created).publish(body, 0)

    with pytest.raises(InvalidRecord, match=f"group table of {len(body)} bytes is not one"):
        reader.snapshot()
