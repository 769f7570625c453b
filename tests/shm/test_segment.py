import os
import stat
from contextlib import contextmanager
from pathlib import Path

import posix_ipc
import pytest

from shm import errors, segment
from shm.names import Kind, segment_name
from shm.segment import HEADER_BYTES, LINE_WORDS, MAGIC, WORD_BYTES, Header, magic_word

PAYLOAD_BYTES = 256
NOBODY = 65534
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can play another user")


@pytest.fixture(name="name")
def _name(instance):
    return segment_name(instance, Kind.LOAD)


@pytest.fixture(name="made")
def _made(name):
    made = segment.create(name, Kind.LOAD, PAYLOAD_BYTES, epoch=7)
    yield made
    made.close()


def raw_object(name, size, words=()):
    """A shared memory object that we did not make, with these words at its start."""
    handle = posix_ipc.SharedMemory(name, posix_ipc.O_CREX, mode=0o600, size=size)
    os.pwrite(handle.fd, b"".join(word.to_bytes(WORD_BYTES, "little") for word in words), 0)
    return handle


@contextmanager
def as_uid(uid):
    os.seteuid(uid)
    try:
        yield
    finally:
        os.seteuid(0)


def test_header_words_follow_each_other_in_one_line():
    """
    The header is one cache line, and the payload begins on the next.
    """
    assert [word.value for word in Header] == list(range(len(Header)))
    assert len(Header) * WORD_BYTES <= HEADER_BYTES == 64


def test_what_the_creator_writes_an_attached_process_reads(made, name):
    """
    Both map the same bytes, and size and epoch come with them.
    """
    made.payload[:5] = b"hello"

    attached = segment.attach(name, Kind.LOAD)

    assert bytes(attached.payload[:5]) == b"hello"
    assert (len(attached.payload), attached.epoch) == (PAYLOAD_BYTES, 7)
    assert repr(attached) == f"<Segment {name} 256 bytes, epoch 7>"
    attached.close()


def test_a_segment_is_its_users_alone(made, name):
    """
    Mode 0600: load figures and addresses are nobody else's business.
    """
    mode = Path("/dev/shm" + name).stat().st_mode

    assert stat.S_IMODE(mode) == 0o600


def test_a_reader_cannot_write(made, name):
    """
    There is one writer because the others' mappings do not let them be one.
    """
    attached = segment.attach(name, Kind.LOAD)

    with pytest.raises(TypeError, match="read-only"):
        attached.payload[0] = 1
    attached.close()


def test_a_missing_segment_is_named(name):
    """
    The error tells which name was looked for.
    """
    with pytest.raises(errors.SegmentMissing, match=f"there is no segment {name}"):
        segment.attach(name, Kind.LOAD)


def test_an_object_without_room_for_a_header_is_not_ready(name):
    """
    Its creator has opened it and not yet given it its size.
    """
    raw_object(name, 0).close_fd()

    with pytest.raises(errors.NotReady, match="has 0 bytes, its creator has not finished"):
        segment.attach(name, Kind.LOAD)


def test_a_segment_of_size_0_is_not_ready(name):
    """
    The size is written last, so all else may be there and must not be believed.
    """
    raw_object(name, 4096, [0, magic_word(Kind.LOAD), 1]).close_fd()

    with pytest.raises(errors.NotReady, match="has size 0, its creator has not finished"):
        segment.attach(name, Kind.LOAD)


def test_somebody_elses_object_is_refused(name):
    """
    A wrong magic is shown beside the right one.
    """
    raw_object(name, 4096, [64, 0xDEAD_BEEF << 32, 1]).close_fd()

    with pytest.raises(errors.WrongMagic, match="0xdeadbeef00000000, a load segment"):
        segment.attach(name, Kind.LOAD)


def test_another_kind_of_ours_is_refused(made, name):
    """
    A load segment is not a board, though both are levelhead's.
    """
    with pytest.raises(errors.WrongMagic, match="a board segment has"):
        segment.attach(name, Kind.BOARD)


def test_another_versions_layout_is_refused(name):
    """
    Two versions on one host do not read each other's words.
    """
    raw_object(name, 4096, [64, magic_word(Kind.LOAD, version=1), 1]).close_fd()

    with pytest.raises(errors.WrongVersion, match="has layout version 1, this is version 4"):
        segment.attach(name, Kind.LOAD)


def test_a_truncated_segment_is_refused(name):
    """
    Nobody reads past the end of the object, whatever its header promises.
    """
    raw_object(name, 128, [65, magic_word(Kind.LOAD), 1]).close_fd()

    with pytest.raises(errors.Truncated, match="has 128 bytes, its header promises 129"):
        segment.attach(name, Kind.LOAD)


def test_an_object_of_odd_length_can_be_attached(name):
    """
    What lies behind the payload is not looked at, nor does its length matter.
    """
    raw_object(name, 131, [64, magic_word(Kind.LOAD), 5]).close_fd()

    attached = segment.attach(name, Kind.LOAD)

    assert (len(attached.payload), attached.epoch) == (64, 5)
    attached.close()


@needs_root
def test_another_users_segment_is_refused(made, name):
    """
    Root could open it and still does not believe it.
    """
    os.chown("/dev/shm" + name, NOBODY, -1)

    with pytest.raises(errors.AccessDenied, match=f"belongs to uid {NOBODY}, not to 0"):
        segment.attach(name, Kind.LOAD)


@needs_root
def test_a_segment_that_may_not_be_opened_is_refused(made, name):
    """
    The system's refusal comes out as ours, with the uid that was refused.
    """
    with as_uid(NOBODY), pytest.raises(errors.AccessDenied, match=f"opened by uid {NOBODY}"):
        segment.attach(name, Kind.LOAD)


@needs_root
def test_another_users_segment_is_not_taken_over(name):
    """
    Creating does not remove what another user left under the name.
    """
    segment.create(name, Kind.LOAD, PAYLOAD_BYTES, epoch=7).close()
    os.chown("/dev/shm" + name, NOBODY, -1)

    with pytest.raises(errors.AccessDenied, match=f"belongs to uid {NOBODY}"):
        segment.create(name, Kind.LOAD, PAYLOAD_BYTES, epoch=8)


def test_every_error_of_the_room_has_one_base():
    """
    Who wants to survive anything that a segment can do catches SegmentError.
    """
    classes = [value for value in vars(errors).values() if isinstance(value, type)]

    assert all(issubclass(error, errors.SegmentError) for error in classes)


def test_magic_kind_and_version_share_one_word():
    """
    All three are compared by one load.
    """
    assert magic_word(Kind.TABLE, version=9) == MAGIC << 32 | 3 << 16 | 9


def test_unlinking_twice_does_no_harm(made, name):
    """
    The owner's end and a sweep may both remove it.
    """
    made.unlink()
    made.unlink()

    with pytest.raises(errors.SegmentMissing):
        segment.attach(name, Kind.LOAD)


class RecordedLine(list):
    """A header line that remembers in which order its words were stored."""

    def __init__(self):
        super().__init__([0] * LINE_WORDS)
        self.order = []

    def cast(self, _):
        return self

    def release(self):
        pass

    def __setitem__(self, word, value):
        self.order.append(word)
        super().__setitem__(word, value)


def test_the_size_is_the_last_word_that_its_creator_writes():
    """
    Whoever attaches before that sees 0, and all else is there when it is not.
    """
    line = RecordedLine()

    segment._write_header(line, Kind.LOAD, payload_bytes=64, epoch=7)

    assert line.order[-1] is Header.SIZE
    assert set(line.order) == set(Header) - {Header.CURRENT}


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="the system cannot reserve")
def test_memory_that_is_not_there_is_refused_at_creation(name):
    """
    A page that cannot be had later would end a process; nothing is left of the attempt.
    """
    with pytest.raises(errors.NoMemory, match=f"{name} needs {(1 << 50) + HEADER_BYTES} bytes"):
        segment.create(name, Kind.LOAD, 1 << 50, epoch=1)
    with pytest.raises(errors.SegmentMissing):
        segment.attach(name, Kind.LOAD)
