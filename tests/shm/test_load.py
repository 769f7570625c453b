import struct

import pytest

from shm import load
from shm.double_buffer import DoubleBufferWriter
from shm.errors import InvalidRecord, PayloadTooLarge, SegmentMissing
from shm.load import Accepted, LoadReader, LoadReport, LoadWriter

NUM_GROUPS, NUM_FRONT_DOORS = 3, 2
SMALLEST, LARGEST = -(1 << 63), (1 << 63) - 1


def report(dp_rank, value=0):
    """A report whose every figure is different, and all of them when value is."""
    scalars = range(value, value + len(LoadReport._fields) - 2)
    slots = (range(value + 50, value + 55), (value + 60, -1, value, value + 61, 1 << 62))
    accepted = tuple(Accepted(*slot) for slot in slots)
    return LoadReport(dp_rank, *scalars, accepted)


@pytest.fixture(name="created")
def _created(instance):
    created = load.create(instance, NUM_GROUPS, NUM_FRONT_DOORS, epoch=11)
    yield created
    created.close()


@pytest.fixture(name="writer")
def _writer(created, instance):
    writer = LoadWriter.attach(instance, NUM_GROUPS, NUM_FRONT_DOORS)
    yield writer
    writer.close()


@pytest.fixture(name="reader")
def _reader(created, instance):
    reader = LoadReader.attach(instance)
    yield reader
    reader.close()


def test_words_of_a_report_turn_back_into_it():
    """
    As many words as num_words says, and nothing is lost on the way.
    """
    words = report(2, 100).to_words()

    assert len(words) == LoadReport.num_words(NUM_FRONT_DOORS)
    assert LoadReport.from_words(words) == report(2, 100)


def test_words_that_are_no_whole_report_are_refused():
    """
    A front-door slot that is cut short is not filled up with anything.
    """
    with pytest.raises(ValueError, match="shorter"):
        LoadReport.from_words(report(0).to_words()[:-1])


def test_a_snapshot_is_what_was_published(writer, reader):
    """
    Any groups, in any order, with the writer's time and a sequence that counts up.
    """
    assert reader.snapshot() is None
    writer.publish([report(2, 7), report(0, 8)], published_ns=1234)

    snapshot = reader.snapshot()

    assert (snapshot.sequence, snapshot.published_ns) == (1, 1234)
    assert snapshot.reports == (report(2, 7), report(0, 8))
    assert (reader.current_sequence, reader.epoch) == (1, 11)


def test_a_record_without_reports_is_a_record(writer, reader):
    """
    TP0 may have heard of nobody yet.
    """
    writer.publish([], published_ns=1)

    assert reader.snapshot().reports == ()


def test_figures_are_signed_and_64_bits_wide(writer, reader):
    """
    Nanoseconds since boot and byte counts fit for centuries.
    """
    extreme = report(1)._replace(sampled_ns=SMALLEST, holding_tokens=LARGEST)

    writer.publish([extreme], published_ns=LARGEST)

    assert reader.snapshot().reports == (extreme,)
    assert reader.snapshot().published_ns == LARGEST


def test_a_figure_beyond_64_bits_is_refused_before_anything_is_written(writer, reader):
    """
    A counter that ran away must not become a small number.
    """
    writer.publish([report(1)], published_ns=1)

    with pytest.raises(struct.error):
        writer.publish([report(1)._replace(holding_tokens=LARGEST + 1)], published_ns=2)
    assert reader.snapshot().sequence == 1


def test_too_many_groups_are_refused(writer, reader):
    """
    One report more than the segment was made for: sizes in the error, nothing written.
    """
    writer.publish([report(rank) for rank in range(NUM_GROUPS)], published_ns=1)

    with pytest.raises(PayloadTooLarge, match="bytes to publish, room for"):
        writer.publish([report(rank) for rank in range(NUM_GROUPS + 1)], published_ns=2)
    assert reader.snapshot().sequence == 1


def test_a_writer_for_more_than_the_segment_holds_is_refused_at_once(created, instance):
    """
    It is told at its start, not when the last group comes.
    """
    with pytest.raises(PayloadTooLarge, match="4 groups and 2 front doors need"):
        LoadWriter.attach(instance, NUM_GROUPS + 1, NUM_FRONT_DOORS)


def test_a_reader_before_its_segment_is_told_so(instance):
    """
    Attaching makes nothing.
    """
    with pytest.raises(SegmentMissing):
        LoadReader.attach(instance)


def test_changed_gives_only_reports_that_differ(writer, reader):
    """
    The first time all, then those that are not as they were.
    """
    assert reader.changed() is None
    writer.publish([report(0, 1), report(1, 1), report(2, 1)], published_ns=1)
    assert reader.changed().reports == (report(0, 1), report(1, 1), report(2, 1))

    writer.publish([report(0, 1), report(1, 2), report(2, 1)], published_ns=2)

    changed = reader.changed()
    assert (changed.sequence, changed.published_ns) == (2, 2)
    assert changed.reports == (report(1, 2),)
    assert reader.changed().reports == ()


def test_changed_gives_all_when_a_group_has_come(writer, reader):
    """
    Reports are then at other places than before.
    """
    writer.publish([report(1, 1)], published_ns=1)
    reader.changed()

    writer.publish([report(0, 1), report(1, 1)], published_ns=2)

    assert reader.changed().reports == (report(0, 1), report(1, 1))


def test_changed_misses_nothing_when_reports_change_places(writer, reader):
    """
    Order is the publisher's business; what differs at a place is given.
    """
    writer.publish([report(0, 1), report(1, 1)], published_ns=1)
    reader.changed()

    writer.publish([report(1, 1), report(0, 2)], published_ns=2)

    assert report(0, 2) in reader.changed().reports


def test_changed_spans_the_records_that_nobody_asked_for(writer, reader):
    """
    What changed three records ago and not since is still new to who did not look.
    """
    writer.publish([report(0, 1), report(1, 1)], published_ns=1)
    reader.changed()
    for published_ns in range(2, 6):
        writer.publish([report(0, 2), report(1, 1)], published_ns)

    assert reader.changed().reports == (report(0, 2),)


def test_a_snapshot_takes_nothing_from_what_changed(writer, reader):
    """
    Looking at all is not having taken over what is new.
    """
    writer.publish([report(0, 1)], published_ns=1)
    reader.snapshot()

    assert reader.changed().reports == (report(0, 1),)


def test_two_readers_do_not_take_changes_from_each_other(writer, reader, instance):
    """
    What was seen is the reader's own memory.
    """
    other = LoadReader.attach(instance)
    writer.publish([report(0, 1)], published_ns=1)
    other.changed()

    assert reader.changed().reports == (report(0, 1),)
    other.close()


def test_a_record_of_another_shape_is_refused(created, reader):
    """
    A body that is not as long as its numbers of groups and front doors say.
    """
    body = struct.pack("<qqq", 1, 2, 3)
    DoubleBufferWriter(created).publish(body, 0)

    with pytest.raises(InvalidRecord, match="24 bytes, 1 groups and 2 front doors have 208"):
        reader.snapshot()
