"""
A DP group's standing: what each piece of evidence makes of it.

    state      card of a     card says   card says   process   /health   2 failures   stale, and no
               later epoch   draining    released    gone      answers   in a row     answer in 2 s
    starting   starting      draining    released    dead (*)  ready     -            -
    ready      starting      draining    released    dead      -         dead         suspect
    suspect    starting      draining    released    dead      ready     dead         -
    draining   starting      -           -           dead      -         -            -
    released   starting      draining    - (+)       dead      -         dead         -
    dead       starting      - (**)      - (**)      -         ready     -            -

    (*)  a group that was never heard of goes on starting
    (**) and is draining or released, not ready, once it answers again
    (+)  one that says so no more is suspect until it answers

Draining is for good, for that epoch: only a new life ends it.  A draining leader
stops to answer before it ends, so its silence is no death; the root sees to it
that it ends.  Nor is a card that is missing or corrupt: a leader that ends takes
its card away first, and what a living one does is found out by asking it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from router.card import Card
from shm.group_table import GroupEntry, GroupState

FAILURES_TO_DEATH = 2
_SUSPECT_AFTER_NS = 2_000_000_000
_MISSED = (GroupState.READY, GroupState.SUSPECT, GroupState.RELEASED)
"""States in which a group has to answer."""


@dataclass(frozen=True, slots=True)
class Member:
    """A group with what is known of its health."""

    entry: GroupEntry
    card: Card | None = None
    num_failures: int = 0
    """Probes in a row that nobody answered."""
    asked_ns: int | None = None
    """When the first probe began that has no answer yet; None if the last one was answered."""
    is_leaving: bool = False
    """It is to drain, in this epoch."""
    was_told: bool = False
    """Its process was told so."""

    def in_state(self, state: GroupState) -> Member:
        """The same member in that state."""
        return replace(self, entry=replace(self.entry, state=state))

    @property
    def is_to_be_told(self) -> bool:
        """Whether its process has yet to be told that it is to drain; telling twice is cutting."""
        told = self.was_told or self.card is None or self.card.is_draining
        return self.is_leaving and not told


def known(entry: GroupEntry) -> Member:
    """A member as an earlier life of the control plane left it."""
    return Member(entry, is_leaving=entry.state is GroupState.DRAINING)


def presented(member: Member, card: Card | None, *, process_alive: bool) -> Member:
    """
    The member after a look at its card and its process.

    Without a card, the process is that of the last one; if there never was one,
    it is not alive.
    """
    if card is None and process_alive:
        return member
    if card is not None and card.epoch > member.entry.epoch and process_alive:
        entry = GroupEntry(
            member.entry.dp_rank,
            GroupState.STARTING,
            card.epoch,
            card.host,
            card.port,
            card.model,
            card.max_model_len,
            card.tokenizer_dir,
            card.page_size,
        )
        return Member(entry, card)
    if card is not None and card.epoch == member.entry.epoch and process_alive:
        member = replace(member, card=card)
        return drained(member) if card.is_draining else _released(member, card)
    never_heard_of = member.entry.epoch == 0
    return member if never_heard_of else replace(member, card=None).in_state(GroupState.DEAD)


def drained(member: Member) -> Member:
    """The member that is to drain: in this epoch it is given no request any more."""
    leaving = replace(member, is_leaving=True)
    if member.entry.state is GroupState.DEAD:
        return leaving
    return leaving.in_state(GroupState.DRAINING)


def _released(member: Member, card: Card) -> Member:
    """The member whose card says whether its memory is released; who is leaving leaves."""
    state = member.entry.state
    if card.is_released and state not in (GroupState.DEAD, GroupState.DRAINING):
        return member.in_state(GroupState.RELEASED)
    if state is GroupState.RELEASED and not card.is_released:
        return member.in_state(GroupState.SUSPECT)
    return member


def undrained(member: Member) -> Member:
    """
    The member that is to serve again.

    Whether it is well nobody has looked at in the meantime: it is suspect until it answers.
    """
    staying = replace(member, is_leaving=False)
    if member.entry.state is GroupState.DRAINING:
        return staying.in_state(GroupState.SUSPECT)
    return staying


def asked(member: Member, now_ns: int) -> Member:
    """The member when a probe begins."""
    return member if member.asked_ns is not None else replace(member, asked_ns=now_ns)


def not_asked(member: Member, began_ns: int) -> Member:
    """The member after a probe of that time that could not ask anybody."""
    return replace(member, asked_ns=None) if member.asked_ns == began_ns else member


def probed(member: Member, *, healthy: bool) -> Member:
    """The member after `/health` answered, or did not."""
    state = member.entry.state
    if healthy:
        return replace(member, num_failures=0, asked_ns=None).in_state(_well(member))
    failed = replace(member, num_failures=member.num_failures + 1)
    dead = failed.num_failures >= FAILURES_TO_DEATH and state in _MISSED
    return failed.in_state(GroupState.DEAD if dead else state)


def _well(member: Member) -> GroupState:
    """What a member is that answers."""
    if member.is_leaving:
        return GroupState.DRAINING
    card, was = member.card, member.entry.state
    is_released = was is GroupState.RELEASED if card is None else card.is_released
    return GroupState.RELEASED if is_released else GroupState.READY


def is_silent(member: Member, now_ns: int) -> bool:
    """Whether `/health` has been unanswered for so long that its figures should be looked at."""
    return member.asked_ns is not None and now_ns - member.asked_ns >= _SUSPECT_AFTER_NS


def suspected(member: Member) -> Member:
    """The member that is silent and whose figures are stale."""
    if member.entry.state is GroupState.READY:
        return member.in_state(GroupState.SUSPECT)
    return member
