"""
What a front door does about prefixes, if it chooses by them; nothing at all if it does not.

It follows the groups that are in the table, has prompts named in pages of their size, and
lets age what it only expects.  Where prefixes are, the controller's index knows.
"""

from __future__ import annotations

import logging

from balancer.controller import Controller
from router.front_door.meters import Meters
from router.front_door.prefix_intake import PrefixIntake, Whereabouts
from router.front_door.prompt import PromptCounter
from router.front_door.upstream_pool import UpstreamPool
from shm.group_table import GroupEntry

_log = logging.getLogger("levelhead.front_door")


class Prefixes:
    """Owns the intake; the index is the controller's, the page size is set in the counter."""

    def __init__(
        self,
        pool: UpstreamPool,
        controller: Controller,
        counter: PromptCounter,
        whereabouts: Whereabouts,
    ) -> None:
        self._index = controller.prefixes
        self._counter = counter
        self._intake = PrefixIntake(
            pool,
            controller.observe_prefix,
            whereabouts=whereabouts,
            on_page_size=self._choose_page_size,
        )
        self._table_sizes: set[int] = set()
        self._sizes: set[int] = set()

    @property
    def are_wanted(self) -> bool:
        """Whether the method in use chooses by prefixes."""
        return self._index is not None

    @property
    def num_connected(self) -> int:
        """Groups that are telling."""
        return self._intake.num_connected

    def follow(self, groups: tuple[GroupEntry, ...]) -> None:
        """Follow those that are ready now and tell; name pages only if all have one size."""
        if self.are_wanted:
            telling = tuple(entry for entry in groups if entry.kv_events or not entry.is_backend)
            self._intake.follow(telling)
            ours = (entry for entry in telling if not entry.is_backend)
            self._table_sizes = {entry.page_size for entry in ours if entry.epoch}
            self._choose_page_size()

    def _choose_page_size(self) -> None:
        """Workers' page sizes stand in the table, backends' are told, once they are known."""
        told = set(self._intake.page_sizes.values()) if not self._table_sizes else set()
        sizes = self._table_sizes or told - {0}
        self._counter.page_size = next(iter(sizes)) if len(sizes) == 1 else 0
        if len(sizes) > 1 and sizes != self._sizes:
            _log.warning("prompts are not paged: groups have pages of %s tokens", sorted(sizes))
        self._sizes = sizes

    def age(self) -> None:
        """Now and then: forget what was expected and never told."""
        if self._index is not None:
            self._index.age()

    def measure(self, meters: Meters) -> None:
        """Note how many groups tell, and how much is known."""
        if self._index is not None:
            meters.prefix_groups = self.num_connected
            meters.prefix_digests = len(self._index)

    def stop(self) -> None:
        """Follow nobody any more."""
        self._intake.stop()
