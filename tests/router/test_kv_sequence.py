"""Where a live batch stands among those that came."""

import pytest

from router.control_plane.kv_events.sequence import Place, Sequence

NEXT, KNOWN, GAP, ANEW = Place.NEXT, Place.KNOWN, Place.BEHIND_A_GAP, Place.ANEW


@pytest.mark.parametrize(
    ("steps", "places"),
    [
        ([5, 6, 7], [NEXT, NEXT, NEXT]),  # joined in the middle
        ([0, 2, 3], [NEXT, GAP, NEXT]),
        ([0, 1, 0], [NEXT, NEXT, ANEW]),
        ([0, 1, 1], [NEXT, NEXT, ANEW]),
        ([7, 3, 4], [NEXT, ANEW, NEXT]),
        (["r0", "r1", "r2", 1, 2, 3], [KNOWN, KNOWN, NEXT]),
        (["r0", 2, 3], [GAP, NEXT]),
        ([0, 3, "r1", "r2", "r3", 4], [NEXT, GAP, NEXT]),
        (["r0", "r1", 1, 0], [KNOWN, ANEW]),
    ],
)
def test_each_live_batch_has_a_place(steps, places):
    """
    r: that number was repeated; what is behind a gap is taken all the same.
    """
    sequence, found = Sequence(), []
    for step in steps:
        if isinstance(step, str):
            sequence.took(int(step[1:]))
            continue
        place = sequence.place(step)
        found.append(place)
        if place is not KNOWN:
            sequence.took(step)

    assert found == places
