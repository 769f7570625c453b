"""Events in the forms that engines have used."""

import msgspec
import pytest

from router.control_plane.kv_events.decoding import decoded
from router.control_plane.kv_events.events import (
    AllCleared,
    BlocksRemoved,
    BlocksStored,
    Unreadable,
)
from tests.router.publisher import payload_of, removed, stored

OLD = ["BlockStored", [1], None, [5, 6], 2, None]


def one(event):
    (found,) = decoded(payload_of(event))
    return found


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        (OLD, BlocksStored([1], None, [5, 6], 2)),
        ([*OLD, "CPU"], BlocksStored([1], None, [5, 6], 2, "CPU")),
        ([*OLD, "GPU", "adapter"], BlocksStored([1], None, [5, 6], 2, "GPU", True)),
        ([*OLD, "GPU", None, [["x"]], 1, "mamba", None, 9, 9],
         BlocksStored([1], None, [5, 6], 2, "GPU", False, [["x"]], 1, "mamba")),
        (["BlockStored", [b"h"], b"p", [5, 6], 2, 7],
         BlocksStored([b"h"], b"p", [5, 6], 2, None, True)),
        (["BlockRemoved", [1, -2]], BlocksRemoved([1, -2])),
        (["BlockRemoved", [1], "CPU", 3, "later"], BlocksRemoved([1], "CPU", 3)),
        (["AllBlocksCleared"], AllCleared()),
        (stored([1, 2], [5, 6, 7, 8], parent=3, later="x"),
         BlocksStored([1, 2], 3, [5, 6, 7, 8], 2, "GPU", False, [None, None])),
        (stored([1], [5, 6], cache_salt="s", extra_keys=None),
         BlocksStored([1], None, [5, 6], 2, "GPU", False, ["s"])),
        (stored([1], [5, 6], lora_name="a"),
         BlocksStored([1], None, [5, 6], 2, "GPU", True, [None])),
        (stored([1], [5, 6], locality="REMOTE"),
         BlocksStored([1], None, [5, 6], 2, "REMOTE", False, [None])),
        (stored([1], [5, 6], group_idx=0, kv_cache_spec_kind="full_attention"),
         BlocksStored([1], None, [5, 6], 2, "GPU", False, [None], 0, "full_attention")),
        (removed(1) | {"group_idx": 0}, BlocksRemoved([1], "GPU", 0)),
        ({"type": "AllBlocksCleared"}, AllCleared()),
    ],
)  # fmt: skip
def test_an_event_is_read_in_every_form(event, expected):
    """
    A list in the order of the fields, or a map; what is left out is None, what is new is ignored.
    """
    assert one(event) == expected


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\xc1",
        b"\x93\xcb",
        b"\x91" * 3000 + b"\x00",
        msgspec.msgpack.encode({"ts": 1}),
        msgspec.msgpack.encode([1.5]),
        msgspec.msgpack.encode([1.5, "x"]),
        payload_of(5),
        payload_of([]),
        payload_of([5]),
        payload_of({"type": None}),
        payload_of(["BlockMoved", [1]]),
        payload_of(["BlockRemoved", 5]),
        payload_of(["BlockRemoved", ["x"]]),
        payload_of(["BlockRemoved", [True]]),
        payload_of(["BlockRemoved", [b"x" * 65]]),
        payload_of(["BlockStored", [1], None, [5, 6]]),
        payload_of(["BlockStored", [1], None, [5, 6], 0]),
        payload_of(["BlockStored", [1], None, [5, 6], True]),
        payload_of(["BlockStored", [1], 1.5, [5, 6], 2]),
        payload_of(["BlockStored", [1], None, None, 2]),
        payload_of(stored([1], [5, 6], extra_keys="x")),
    ],
)
def test_what_is_no_event_makes_its_batch_unreadable(payload):
    """
    For it may have told of a removal.
    """
    with pytest.raises(Unreadable):
        decoded(payload)


def test_what_is_wrong_is_told_in_a_line_that_can_be_read():
    """
    However long it is.
    """
    with pytest.raises(Unreadable) as refused:
        decoded(payload_of(["BlockRemoved", ["x" * 100_000]]))
    assert len(str(refused.value)) < 100
