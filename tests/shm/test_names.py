import pytest

from shm.errors import InvalidName
from shm.names import MAX_INSTANCE_LENGTH, Kind, segment_name


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (Kind.LOAD, "/levelhead-a.b_1-load"),
        (Kind.BOARD, "/levelhead-a.b_1-board"),
        (Kind.TABLE, "/levelhead-a.b_1-table"),
    ],
)
def test_a_segment_is_named_after_its_instance_and_kind(kind, expected):
    """
    An operator finds in /dev/shm what belongs to which instance.
    """
    assert segment_name("a.b_1", kind) == expected


@pytest.mark.parametrize("instance", ["", "a/b", "a b", "a-b", "ä", "x" * 65, "a\n"])
def test_an_instance_name_that_cannot_be_a_file_name_is_refused(instance):
    """
    A slash would leave /dev/shm, a dash would let two names meet: the error says what may be.
    """
    with pytest.raises(InvalidName, match=r"1 to 64 letters, digits, '_' and '\.'"):
        segment_name(instance, Kind.LOAD)


def test_the_longest_instance_name_is_allowed():
    """
    The limit itself is inside.
    """
    assert segment_name("x" * MAX_INSTANCE_LENGTH, Kind.LOAD).endswith("x-load")
