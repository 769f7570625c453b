"""Flags of `serve` and `simulate` about requests that a front door keeps back."""

from __future__ import annotations

import argparse

from balancer.waiting_room import Admission, PrefillAlign, WaitingRules
from router import flag_values as values

_MS_PER_S = 1e3
_LONGEST_HOLD_MS = 60_000


def add_waiting(parser: argparse.ArgumentParser, *, is_bounded: bool) -> None:
    """`is_bounded`: whether it can be said how many may wait."""
    group, rules = parser.add_argument_group("waiting for room"), WaitingRules()
    group.add_argument(
        "--admission",
        default=rules.admission.value,
        choices=[each.value for each in Admission],
        help="whether a request is sent to a group at once, or when one has room for it",
    )
    group.add_argument(
        "--prefill-align",
        default=rules.prefill_align.value,
        choices=[each.value for each in PrefillAlign],
        help="hold: prompts are kept back for a moment and sent to all groups together",
    )
    group.add_argument(
        "--max-hold-ms",
        type=values.integer(0, _LONGEST_HOLD_MS),
        default=round(rules.max_hold_s * _MS_PER_S),
        metavar="MS",
        help="longest time that --prefill-align hold keeps a prompt back",
    )
    if is_bounded:
        group.add_argument(
            "--max-waiting-requests",
            type=values.integer(0),
            default=rules.max_waiting_requests,
            metavar="N",
            help="requests that wait in a front door; more are refused with 503",
        )
        group.add_argument(
            "--max-restart-wait-s",
            type=values.seconds(0),
            default=60.0,
            metavar="SECONDS",
            help="how long requests wait for DP groups that all start again; 0: not at all",
        )


def waiting_rules(
    admission: str,
    prefill_align: str,
    max_hold_ms: int,
    max_waiting_requests: int = WaitingRules().max_waiting_requests,
) -> WaitingRules:
    """What the flags say."""
    return WaitingRules(
        Admission(admission),
        PrefillAlign(prefill_align),
        max_hold_ms / _MS_PER_S,
        max_waiting_requests,
    )
