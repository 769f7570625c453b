"""What may be wrong with an engine's KV events, and why what they told is not used."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum


class KvCondition(StrEnum):
    """Why nothing is known of a group's pages just now."""

    DISCONNECTED = "disconnected"
    """Nobody publishes there, or the connection is lost."""
    MALFORMED = "malformed"
    """What was told last cannot be read."""
    UNCHAINED = "unchained"
    """It gives one hash to blocks of different beginnings: a hash does not say what is cached."""
    PAGE_SIZE = "page_size"
    """Its blocks have another size than those of other groups: prompts are not paged for any."""


class Reset(StrEnum):
    """Why all that was known of a group was forgotten."""

    DISCONNECTED = "disconnected"
    GAP = "gap"
    """Batches were lost, and were not repeated."""
    RESTART = "restart"
    """Their numbers begin anew."""
    MALFORMED = "malformed"
    UNCHAINED = "unchained"


class Unused(StrEnum):
    """Why a block that was told is not used."""

    PARENT = "parent"
    """The block before it is not known."""
    LORA = "lora"
    EXTRA_KEYS = "extra_keys"
    """Its hash depends on more than tokens: an image, a cache salt."""
    MEDIUM = "medium"
    """It is not in the memory of the accelerator."""
    ATTENTION = "attention"
    """It belongs to layers that do not attend to all of a prompt, or to a second set of layers."""
    BLOCK_SIZE = "block_size"
    """It is of another size than the first that was told."""
    TOKENS = "tokens"
    """It does not say which tokens, or not in that many numbers."""
    ROOM = "room"
    """As many blocks are known as may be."""


@dataclass(slots=True)
class KvTally:
    """What has become of what one group told; only grows."""

    num_batches: int = 0
    num_repeated: int = 0
    """Of those, asked for again."""
    resets: Counter[Reset] = field(default_factory=Counter)
    unused: Counter[Unused] = field(default_factory=Counter)
    """Blocks."""
