"""Bursts through several front doors at once: the in-flight board keeps the split even."""

import asyncio

import pytest

from tests.faults.doors_rig import NUM_DOORS, NUM_GROUPS, DoorsRig

pytestmark = pytest.mark.slow

BURST = 400
BURSTS_IN_PIECES = (1, 1, 1, 2, 2, 2)
PROMPT_BYTES = 400
REPORT_PERIOD_S = 0.005


def run_bursts(folder, *, in_flight_board):
    """Requests by group, for each burst."""
    return asyncio.run(_bursts(folder, in_flight_board))


async def _bursts(folder, in_flight_board):
    async with DoorsRig(folder, in_flight_board=in_flight_board, max_load_age_s=60.0) as rig:
        await rig.connect(BURST // NUM_DOORS)
        publishing = asyncio.create_task(rig.keep_publishing(REPORT_PERIOD_S))
        splits = [
            await _burst(rig, number % NUM_GROUPS, pieces)
            for number, pieces in enumerate(BURSTS_IN_PIECES)
        ]
        publishing.cancel()
        return splits


async def _burst(rig, late, pieces):
    """
    One burst, with the reports of one group coming only after it: it is in a long step.

    In pieces: the others have reported when the next piece comes.
    """
    rig.publish()
    rig.late, asking = {late}, []
    for _ in range(pieces):
        for number in range(BURST // pieces):
            asking.append(asyncio.create_task(rig.ask(number % NUM_DOORS, PROMPT_BYTES)))
        await rig.until_held(len(asking))
        rig.publish()
    split = rig.requests()
    rig.late = set()
    rig.end_all()
    await asyncio.gather(*asking)
    return split


def test_a_burst_over_four_front_doors_is_split_evenly_and_without_the_board_it_is_not(tmp_path):
    """
    400 equal requests through four front doors: each of four groups gets 90 to 110 of them.

    With the board switched off a front door learns of the others' requests from reports alone, so
    all of them run to the group whose report is late.
    """
    (tmp_path / "with").mkdir()
    (tmp_path / "without").mkdir()
    seeing = run_bursts(tmp_path / "with", in_flight_board=True)
    blind = run_bursts(tmp_path / "without", in_flight_board=False)
    print(f"\nwith the board    {seeing}\nwithout the board {blind}")

    assert max(map(max, seeing)) <= 110
    assert min(map(min, seeing)) >= 90
    assert max(map(max, blind)) > 110
    assert max(map(max, blind)) > max(map(max, seeing)) + 10
