"""What a terminal shows, recorded by rich."""

import io

import pytest
from rich.console import Console

from router.top.bars import FINE, PLAIN
from router.top.decisions import Decisions
from router.top.frame import frame, room
from router.top.words import count, plain, seconds
from shm.group_table import GroupState
from tests.figures import group_figures
from tests.router.pictures import front_doors, loads, look, meters, picture


def shown(told, width=80, height=24, glyphs=FINE):
    """Lines as a terminal of that size has them."""
    console = Console(file=io.StringIO(), record=True, width=width, height=height)
    for line in frame(told, glyphs, width, height):
        console.print(line, no_wrap=True, overflow="ignore", crop=False)
    return console.export_text().splitlines()


def many(num_groups):
    groups = [
        group_figures(rank, in_flight=(rank, 1), holding_tokens=100 * rank)
        for rank in range(num_groups)
    ]
    groups[3] = group_figures(3, GroupState.SUSPECT, holding_tokens=5)
    decisions = Decisions(
        tuple({"dp_rank": n, "decided_at": "1970-01-12T13:46:39Z"} for n in range(20))
    )
    doors = front_doors(meters(to=(0,) * num_groups))
    return picture(look(told=loads(*groups, doors=doors), decisions=decisions))


def test_two_groups_are_seen_at_80_by_24():
    """
    Each with its bar to scale, its figures, and how level they are.
    """
    told = loads(
        group_figures(0, in_flight=(100, 1), holding_tokens=300, waiting_uncached_tokens=100),
        group_figures(1, holding_tokens=200),
    )
    lines = shown(picture(look(told=told)))
    first, second = (line for line in lines if " ready " in line and line.startswith("    "))

    assert any(line.startswith("imbalance 1.33") for line in lines)
    assert (first.count("█"), first.count("▓"), first.count("░")) == (8, 5, 4)
    assert (second.count("█"), second.count("▓"), second.count("░")) == (8, 0, 0)
    assert first.split()[3:5] == ["300", "100"]
    assert "spirit" in lines[0]
    assert "minimum_tokens" in lines[0]


@pytest.mark.parametrize("num_groups", [4, 8, 64, 256])
@pytest.mark.parametrize("size", [(80, 24), (60, 15), (120, 50), (200, 300)])
def test_whatever_there_is_fits_the_terminal(num_groups, size):
    """
    No line is wider, and there are no more than it has.
    """
    width, height = size
    lines = shown(many(num_groups), width, height)

    assert len(lines) <= height
    assert max(map(len, lines)) <= width


def test_of_256_groups_the_worst_are_shown_and_the_rest_summed_up():
    """
    Whoever is not well comes first, then the fullest.
    """
    lines = shown(many(256))
    heads = [index for index, line in enumerate(lines) if line.startswith("group")]
    rows = lines[heads[0] + 1 :]

    assert rows[0].split()[:2] == ["3", "suspect"]
    assert rows[1].split()[0] == "255"
    assert any("groups more" in line for line in rows)
    assert any(line.startswith("recent decisions") for line in rows)


def test_more_room_shows_more_groups():
    """
    All of them, where they fit.
    """
    tall = shown(many(64), 120, 100)

    assert sum(" ready " in line for line in tall) == 64
    assert not any("more:" in line for line in tall)


@pytest.mark.parametrize("height", [None, *range(8, 60)])
@pytest.mark.parametrize("num_groups", [0, 1, 2, 9, 256])
def test_lines_are_shared_out_within_the_height(height, num_groups):
    """
    At least a line for the groups if there is any.
    """
    groups, decisions = room(num_groups, 20, 1, height)

    assert groups >= min(1, num_groups)
    assert height is None or groups + decisions <= max(2, height - 9)


def test_a_group_has_a_line_in_whatever_state_it_is():
    """
    That says its state.
    """
    groups = [group_figures(rank, state) for rank, state in enumerate(GroupState)]
    doors = front_doors(meters(to=(0,) * len(groups)))
    lines = shown(picture(look(told=loads(*groups, doors=doors))))

    states = [line.split()[1] for line in lines if line.startswith("    ")]
    assert states == [state.value for state in GroupState]


def test_foreign_text_cannot_command_the_terminal():
    """
    Escapes, line breaks and the like in what an instance tells are shown as signs.
    """
    evil = "a\x1b]0;owned\x07\nb\x9b2J\u202e"
    told = Decisions(({"dp_rank": evil, "reason": evil, "decided_at": evil},))
    lines = "\n".join(shown(picture(look(decisions=told))))

    assert "a?]0;owned??b?2J?" in lines
    assert not {"\x1b", "\x07", "\x9b", "\u202e"} & set(lines)
    assert plain("Qwen/Qwen3 8B é") == "Qwen/Qwen3 8B é"


def test_a_decision_tells_when_where_to_how_long_and_why():
    """
    By the instance's clock; a further attempt is marked.
    """
    told = Decisions(
        (
            {
                "decided_at": "1970-01-12T13:46:38.5Z",
                "dp_rank": 1,
                "prompt_tokens": 1200,
                "attempt": 2,
                "reason": "its turn",
            },
        )
    )
    lines = shown(picture(look(decisions=told)))

    assert "  1.5s ago  group 1    1,200 tok  attempt 2  its turn" in lines


def test_why_there_are_no_decisions_is_told():
    """
    A key is missing, or nothing was asked yet.
    """
    lines = shown(picture(look(decisions=Decisions(why_none="a valid admin API key is needed"))))

    assert "  a valid admin API key is needed" in lines


def test_a_terminal_without_such_glyphs_has_others():
    """
    ASCII alone.
    """
    lines = shown(many(4), glyphs=PLAIN)

    assert all(line.isascii() for line in lines)
    assert any("###" in line for line in lines)


def test_numbers_stay_within_their_columns():
    """
    Six characters at most.
    """
    counts = [None, 0, 999, 12_345, 99_999, 123_456, 9_999_999, 12_345_678, 10**12, 10**30]
    assert [count(n) for n in counts[:6]] == ["-", "0", "999", "12,345", "99,999", "123k"]
    assert all(len(count(n)) <= 6 for n in counts)
    times = [None, 0.0, 0.00123, 0.034, 0.9994, 0.99951, 12.34, 9999.0]
    assert [seconds(t) for t in times[1:5]] == ["0.0ms", "1.2ms", "34ms", "999ms"]
    assert all(len(seconds(t)) <= 6 for t in times)
