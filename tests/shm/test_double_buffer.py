from itertools import combinations_with_replacement

import pytest

from shm import segment
from shm.double_buffer import DoubleBufferReader, DoubleBufferWriter, Record, payload_bytes
from shm.errors import PayloadTooLarge, TornRead
from shm.names import Kind, segment_name
from shm.segment import WORD_BYTES, Header
from tests.shm.racing import FakeSegment, Race, RecordingPayload, RecordingWords

OLD, NEW, NEWER = (Record(sequence, 10 * sequence, bytes([sequence] * 8)) for sequence in (1, 2, 3))
NUM_LOADS = 1 + payload_bytes(len(OLD.body)) // 2 // WORD_BYTES  # the sequence, then the buffer


def in_order(stores):
    return stores


def backwards(stores):
    return stores[::-1]


class Written:
    """A fake segment with OLD in it, and the stores of what is published next."""

    def __init__(self, order=in_order):
        self.stores = []
        payload = RecordingPayload(payload_bytes(len(OLD.body)), self.stores, order)
        self.segment = FakeSegment(RecordingWords(self.stores), payload)
        self.publish(OLD)
        self.before = FakeSegment(list(self.segment.words), bytes(payload))
        self.stores.clear()

    def publish(self, record):
        writer = DoubleBufferWriter(self.segment)
        assert writer.publish(record.body, record.published_ns) == record.sequence

    def reader(self, schedule):
        return DoubleBufferReader(Race.segment(self.before, self.stores, schedule))

    def schedules(self):
        return combinations_with_replacement(range(len(self.stores) + 1), NUM_LOADS)


def outcome(reader, attempts):
    try:
        return reader.snapshot(attempts)
    except TornRead:
        return TornRead


@pytest.fixture(name="real")
def _real(instance):
    made = segment.create(segment_name(instance, Kind.LOAD), Kind.LOAD, payload_bytes(64), epoch=1)
    yield made
    made.close()


def test_nothing_published_is_told_apart_from_an_empty_record(real):
    """
    Before the first record there is none; a record without a body is one.
    """
    reader = DoubleBufferReader(real)
    assert (reader.snapshot(), reader.current_sequence) == (None, 0)

    DoubleBufferWriter(real).publish(b"", 5)

    assert reader.snapshot() == Record(1, 5, b"")


def test_reads_back_what_was_published_last(real):
    """
    Records of any length follow each other, each with its own sequence.
    """
    writer, reader = DoubleBufferWriter(real), DoubleBufferReader(real)

    for sequence, body in enumerate((b"long" * 16, b"short", b"", b"x"), start=1):
        assert writer.publish(body, -sequence) == sequence
        assert reader.snapshot() == Record(sequence, -sequence, body)
        assert reader.current_sequence == sequence


def test_a_body_that_does_not_fit_is_refused_before_anything_is_written(real):
    """
    The error has both sizes, and the record that was there is there still.
    """
    writer, reader = DoubleBufferWriter(real), DoubleBufferReader(real)
    writer.publish(b"fits", 1)
    before = bytes(real.payload)

    with pytest.raises(PayloadTooLarge, match=r"65 bytes to publish, room for 64"):
        writer.publish(b"x" * 65, 2)

    assert bytes(real.payload) == before
    assert reader.snapshot() == Record(1, 1, b"fits")


def test_a_restarted_writer_continues_the_sequence(real):
    """
    A reader that has seen sequence 2 does not take the new writer's first for an old one.
    """
    for body in (b"a", b"b"):
        DoubleBufferWriter(real).publish(body, 0)

    assert DoubleBufferWriter(real).publish(b"c", 0) == 3
    assert DoubleBufferReader(real).snapshot() == Record(3, 0, b"c")


def test_damaged_memory_is_reported_and_not_waited_for(real):
    """
    A checksum that never fits ends in an error that names segment and sequence.
    """
    DoubleBufferWriter(real).publish(b"whole", 0)
    real.payload[len(real.payload) // 2 + 32] ^= 1

    with pytest.raises(TornRead, match=r"-load: 64 copies in a row .* at sequence 1"):
        DoubleBufferReader(real).snapshot()


def test_a_body_size_beyond_the_buffer_is_not_believed(real):
    """
    Half of a record's head may be any number, also one past the end.
    """
    DoubleBufferWriter(real).publish(b"whole", 0)
    size_word = len(real.payload) // 2 + 3 * WORD_BYTES
    real.payload[size_word : size_word + WORD_BYTES] = b"\xff" * WORD_BYTES

    with pytest.raises(TornRead):
        DoubleBufferReader(real).snapshot()


@pytest.mark.parametrize("order", [in_order, backwards])
def test_no_interleaving_with_one_write_costs_even_a_retry(order):
    """
    However one write's stores fall between one read's loads, the first attempt
    returns the old record or the new one, and each of them does happen.
    """
    written = Written(order)
    written.publish(NEW)

    outcomes = {outcome(written.reader(schedule), 1) for schedule in written.schedules()}

    assert outcomes == {OLD, NEW}


@pytest.mark.parametrize("order", [in_order, backwards])
def test_no_interleaving_mixes_two_writes(order):
    """
    A writer that overtakes the reader comes back to the buffer that is being
    copied: the attempt returns one whole record or none, never a mix.
    """
    written = Written(order)
    written.publish(NEW)
    written.publish(NEWER)

    outcomes = {outcome(written.reader(schedule), 1) for schedule in written.schedules()}

    assert outcomes == {OLD, NEW, NEWER, TornRead}


def test_a_reader_that_was_overtaken_copies_again():
    """
    Whenever an attempt fails, a later one succeeds, as soon as the writer pauses.
    """
    written = Written()
    written.publish(NEW)
    written.publish(NEWER)

    outcomes = {outcome(written.reader(schedule), 3) for schedule in written.schedules()}

    assert outcomes == {OLD, NEW, NEWER}


@pytest.mark.parametrize("order", [in_order, backwards])
def test_a_writer_that_died_half_way_blocks_nobody(order):
    """
    After any number of a write's stores the first attempt finds a whole record.
    """
    written = Written(order)
    written.publish(NEW)

    for num_stores in range(len(written.stores) + 1):
        dead = Race.segment(written.before, written.stores[:num_stores], ())
        found = DoubleBufferReader(dead).snapshot(attempts=1)
        assert found == (NEW if num_stores == len(written.stores) else OLD)


def test_the_next_writer_overwrites_what_a_dead_one_left_half_way(real):
    """
    Half a record in the other buffer is where the next record goes.
    """
    DoubleBufferWriter(real).publish(b"old", 1)
    real.payload[:40] = b"\x02" * 40  # the buffer of sequence 2, half written

    assert DoubleBufferReader(real).snapshot() == Record(1, 1, b"old")
    assert DoubleBufferWriter(real).publish(b"new", 2) == 2
    assert DoubleBufferReader(real).snapshot() == Record(2, 2, b"new")


def test_a_sequence_seen_before_its_record_is_a_retry():
    """
    A processor that lets the last store be seen first (arm64) costs an attempt, not a mix.
    """
    written = Written()
    written.publish(NEW)
    written.stores.insert(0, written.stores.pop())

    outcomes = {outcome(written.reader(schedule), 1) for schedule in written.schedules()}

    assert outcomes == {OLD, NEW, TornRead}
    assert Header.CURRENT in {word for where, word, _ in written.stores if where == "words"}
