"""
From the bytes of a batch to events: MessagePack, in the forms that engines have used.

    batch    [time, [event, ...], rank, ...]
    event    {"type": "BlockStored", "block_hashes": [...], ...}      vLLM of 2026, SGLang likewise
             ["BlockStored", [hash, ...], parent, ...]                both before

Later versions add fields, at the end or by name, and leave out those that have their default:
what is not known here is ignored, and what is used is checked.  An event of an unknown kind
may have removed something, so its batch cannot be used: not knowing is an error here.
"""

from __future__ import annotations

from collections.abc import Mapping
from reprlib import repr as _short  # what an engine told goes into a line of the log
from typing import Any

import msgspec

from router.control_plane.kv_events.events import (
    AllCleared,
    BlockHash,
    BlocksRemoved,
    BlocksStored,
    KvEvent,
    Unreadable,
)

# Fields by place, in the older form: behind the event's name.
_STORED = (
    "block_hashes", "parent_block_hash", "token_ids", "block_size", "lora_id", "medium",
    "lora_name", "extra_keys", "group_idx", "kv_cache_spec_kind",
)  # fmt: skip
_REMOVED = ("block_hashes", "medium", "group_idx")
_PLACES = {"BlockStored": _STORED, "BlockRemoved": _REMOVED, "AllBlocksCleared": ()}
_EVENTS = 1  # place in a batch
_REMOTE = "REMOTE"
_MAX_HASH_BYTES = 64  # a SHA-512


def decoded(payload: bytes) -> list[KvEvent]:
    """The events of a batch, in their order.  Raises Unreadable."""
    try:
        batch = msgspec.msgpack.decode(payload)
    except (msgspec.DecodeError, RecursionError, ValueError) as error:
        raise Unreadable(f"a batch of {len(payload)} bytes is no MessagePack: {error}") from error
    if not isinstance(batch, list) or len(batch) <= _EVENTS or not isinstance(batch[_EVENTS], list):
        raise Unreadable("a batch is no list of a time and events")
    return [_event(told) for told in batch[_EVENTS]]


def _event(told: object) -> KvEvent:
    name, fields = _named(told)
    if name == "BlockStored":
        return _stored(fields)
    if name == "BlockRemoved":
        return BlocksRemoved(_hashes(fields), _medium(fields), fields.get("group_idx"))
    return AllCleared()


def _named(told: object) -> tuple[str, Mapping[str, Any]]:
    """The event's kind and its fields by name."""
    if isinstance(told, dict):
        name, fields = told.get("type"), told
    elif isinstance(told, list) and told:
        name = told[0]
        places = _PLACES.get(name, ()) if isinstance(name, str) else ()
        fields = dict(zip(places, told[1:], strict=False))
    else:
        raise Unreadable(f"an event is {type(told).__name__}, no map and no list")
    if not isinstance(name, str) or name not in _PLACES:
        raise Unreadable(f"an event is of the unknown kind {_short(name)}")
    return name, fields


def _stored(fields: Mapping[str, Any]) -> BlocksStored:
    size, tokens, parent = (
        fields.get(name) for name in ("block_size", "token_ids", "parent_block_hash")
    )
    if type(size) is not int or size < 1:
        raise Unreadable(f"block_size is {_short(size)}")
    if not isinstance(tokens, list):
        raise Unreadable(f"token_ids is {type(tokens).__name__}, no list")
    keys = fields.get("extra_keys") or ()
    if not isinstance(keys, list | tuple):
        raise Unreadable(f"extra_keys is {type(keys).__name__}, no list")
    hashes, salt = _hashes(fields), fields.get("cache_salt")
    return BlocksStored(
        hashes,
        None if parent is None else _hash(parent),
        tokens,
        size,
        _medium(fields),
        fields.get("lora_id") is not None or fields.get("lora_name") is not None,
        [salt] * len(hashes) if salt is not None else keys,
        fields.get("group_idx"),
        fields.get("kv_cache_spec_kind"),
    )


def _medium(fields: Mapping[str, Any]) -> object:
    """Where the block is; what another server holds is in no memory of this one."""
    return _REMOTE if fields.get("locality") == _REMOTE else fields.get("medium")


def _hashes(fields: Mapping[str, Any]) -> list[BlockHash]:
    hashes = fields.get("block_hashes")
    if not isinstance(hashes, list):
        raise Unreadable(f"block_hashes is {type(hashes).__name__}, no list")
    return [_hash(each) for each in hashes]


def _hash(told: object) -> BlockHash:
    if isinstance(told, bytes) and len(told) > _MAX_HASH_BYTES:
        raise Unreadable(f"a hash of a block has {len(told)} bytes, over {_MAX_HASH_BYTES}")
    if isinstance(told, int | bytes) and not isinstance(told, bool):
        return told
    raise Unreadable(f"a hash of a block is {_short(told)}")
