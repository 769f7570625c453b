import pytest

from benchmarks.balance_flags import METHODS, parse


def test_quick_has_values_of_its_own():
    """
    And those that it does not care about may be given beside it.
    """
    given = parse(["--quick", "--seeds", "3"])

    assert (given.dp_size, given.methods, given.seeds) == ("4", "auto,round_robin", 3)
    assert given.load == parse([]).load


@pytest.mark.parametrize("flag", [("--dp-size", "4,8"), ("--time-scale", "2")])
def test_quick_is_refused_beside_what_it_would_override(flag, capsys):
    """
    Though it be the value that the flag has by default.
    """
    with pytest.raises(SystemExit):
        parse(["--quick", *flag])

    assert f"--quick has values of its own for {flag[0]}" in capsys.readouterr().err


def test_what_is_not_given_has_its_default():
    """
    Flags that are only there or not, too.
    """
    given = parse(["--dp-size", "8"])

    assert (given.dp_size, given.methods, given.trace) == ("8", METHODS, None)
    assert [given.quick, given.real, given.pin, given.unified] == [False] * 4


def test_help_says_the_defaults(capsys):
    """
    With no value that the parser would take for a pattern.
    """
    with pytest.raises(SystemExit):
        parse(["--help"])

    assert "(default: 4,8)" in capsys.readouterr().out
