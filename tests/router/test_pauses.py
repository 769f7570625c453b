import pytest

from router.pauses import Life, Pauses


@pytest.mark.parametrize(
    ("pause_s", "life", "expected_s"),
    [
        (None, Life(1, None), 0.5),
        (0.5, Life(-9, None), 1.0),
        (20.0, Life(2, None), 30.0),
        (30.0, Life(1, 10.0), 30.0),
        (30.0, Life(1, 10.1), 0.5),
        (8.0, Life(1, 0.0), 16.0),
        (None, Life(0, 0.0), None),
        (30.0, Life(0, 0.0), None),
        (None, Life(0, None), 0.5),
        (0.5, Life(0, None), 1.0),
    ],
)
def test_the_pause_before_the_next_life(pause_s, life, expected_s):
    """
    Doubles up to the longest; anew after a steady life, none if a ready process was asked to end.
    """
    assert Pauses().after(pause_s, life) == expected_s


def test_a_process_that_loads_for_long_and_then_dies_is_started_ever_more_slowly():
    """
    However long its lives are, it has served nobody.
    """
    pause_s, pauses = None, []
    for _ in range(8):
        pause_s = Pauses().after(pause_s, Life(-9, 1.0))
        pauses.append(pause_s)

    assert pauses == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]
