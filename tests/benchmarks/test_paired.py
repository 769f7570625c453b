"""Ratios of what was measured in pairs."""

import pytest

from benchmarks.paired import Ratio, ratio_of, t_quantile


@pytest.mark.parametrize(("freedom", "told"), [(2, 4.303), (4, 2.776), (9, 2.262), (29, 2.045)])
def test_students_quantiles_are_those_of_the_tables(freedom, told):
    """
    Two-sided, 95 %.
    """
    assert t_quantile(freedom) == pytest.approx(told, rel=0.04)


def test_a_ratio_that_is_the_same_in_all_pairs_is_certain():
    """
    However much the pairs differ.
    """
    ratio = ratio_of([1.0, 10.0, 100.0], [0.5, 5.0, 50.0])

    assert ratio == pytest.approx((0.5, 0.5, 0.5))
    assert ratio.verdict == "less"


def test_ratios_that_scatter_are_no_verdict():
    """
    Twice as much and half as much: the mean is 1, and so it is with the two exchanged.
    """
    ratio = ratio_of([1.0] * 4, [2.0, 0.5, 2.0, 0.5])

    assert ratio.mean == pytest.approx(1)
    assert ratio.low < 1 < ratio.high
    assert ratio.verdict == "no difference seen"
    assert Ratio(1.2, 1.1, 1.3).verdict == "more"


def test_too_few_pairs_give_none():
    """
    Nor do values that have no logarithm.
    """
    assert ratio_of([1.0, 1.0], [2.0, 2.0]) is None
    assert ratio_of([1.0, 0.0, 1.0], [1.0, 1.0, 1.0]) is None
    with pytest.raises(ValueError, match="3 and 2 values"):
        ratio_of([1.0] * 3, [1.0] * 2)
