import torch

from workers.model.decode_window import ROOM, DecodeWindows

SHAPE = torch.Size((2, 3, 0, 8))


def windows(max_slots=10 * ROOM):
    return DecodeWindows(SHAPE, torch.empty(0), max_slots)


def begin(those, *groups):
    """What a pass begins with: of each group its window's room, and whether it is new."""
    found = those.begin([(tuple(names), tuple(lengths)) for names, lengths in groups])
    those.check_integrity()
    return [None if window is None else (window.room, is_new) for window, is_new in found]


def test_what_is_gathered_is_kept_from_the_second_step_on():
    """
    New faces may be gone at the next step; who is still there is kept, then only read.
    """
    those = windows()

    assert begin(those, ("ab", (5, 7))) == [None]
    assert begin(those, ("ab", (6, 8))) == [(ROOM, True)]
    assert begin(those, ("ab", (7, 9))) == [(ROOM, False)]
    assert begin(those, ("ab", (8, 10))) == [(ROOM, False)]


def test_a_full_window_is_followed_by_a_longer_one():
    """
    A sequence that has used up its room is gathered anew, without a step in between.
    """
    those = windows()
    begin(those, ("a", (ROOM - 1,)))

    assert begin(those, ("a", (ROOM,))) == [(ROOM, True)]
    assert begin(those, ("a", (ROOM + 1,))) == [(2 * ROOM, True)]


def test_other_sequences_find_nothing_of_theirs():
    """
    Somebody came, left, changed places, stood still, or ran ahead: nothing kept is theirs.
    """
    for names, lengths in [
        ("abc", (7, 9, 1)), ("a", (7,)), ("ba", (9, 7)), ("ab", (6, 8)), ("ab", (8, 10)),
    ]:  # fmt: skip
        those = windows()
        begin(those, ("ab", (5, 7)))
        begin(those, ("ab", (6, 8)))

        assert begin(those, (names, lengths)) == [None]


def test_of_sequences_without_a_name_nothing_is_kept():
    """
    Two of them with lengths that follow each other need not be the same.
    """
    those = windows()

    assert begin(those, ((None,), (5,))) == begin(those, ((None,), (6,))) == [None]


def test_windows_together_stay_within_their_bound():
    """
    The group that would be too much goes without; room comes back when others have left.
    """
    those = windows(max_slots=2 * ROOM)
    begin(those, ("ab", (5, 7)), ("c", (3,)))

    assert begin(those, ("ab", (6, 8)), ("c", (4,))) == [(ROOM, True), None]
    assert begin(those, ("c", (5,))) == [(ROOM, True)]


def test_a_window_that_goes_on_counts_before_one_that_begins():
    """
    Whichever of the groups comes first in the pass.
    """
    those = windows(max_slots=4 * ROOM)
    begin(those, ("ab", (ROOM - 1, 5)), ("cd", (20, 20)))
    begin(those, ("ab", (ROOM, 6)), ("cd", (21, 21)))

    assert begin(those, ("ab", (ROOM + 1, 7)), ("cd", (22, 22))) == [None, (ROOM, False)]
