"""The control plane's application, asked without a network."""

from contextlib import asynccontextmanager, contextmanager

import httpx

from router.control_plane.app import ControlPlane, build_app
from router.control_plane.figures import Figures
from router.control_plane.membership import Membership
from router.control_plane.occupation import OccupationClient
from router.control_plane.tokenizing import Tokenizing
from router.control_plane.totals import TotalsReader
from shm.board import Board
from shm.group_table import GroupEntry, GroupState
from shm.load import LoadReader
from shm.names import Kind, segment_name
from shm.segment import attach


def refuse(request):
    raise httpx.ConnectError("refused")


@asynccontextmanager
async def asked(house, entries, respond=refuse, max_tokenizing=32):
    """A client of the control plane's application over that table."""
    loads, board = LoadReader.attach(house.instance.name), Board.attach(house.instance.name)
    async with httpx.AsyncClient(transport=httpx.MockTransport(respond)) as outward:
        figures = Figures(loads, board, lambda: 3_000_000_000)
        members = Membership(
            house.instance, house.table, outward, figures, lambda: 1, tuple(entries)
        )
        tokenizing = Tokenizing(outward, max_tokenizing)
        totals = TotalsReader(outward)
        memory = OccupationClient(outward)
        app = build_app(
            ControlPlane(house.instance, members, figures, tokenizing, totals, occupation=memory)
        )
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(app), base_url="http://control"
        ) as client:
            yield client
    loads.close()
    board.close()


def entry(dp_rank=0, state=GroupState.READY, **fields):
    known = {"epoch": 11, "host": "127.0.0.1", "port": 1000 + dp_rank, "model": "m"}
    return GroupEntry(dp_rank, state, **known | {"max_model_len": 2048} | fields)


def error_of(answer):
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error


@contextmanager
def torn(house):
    """No whole copy of the load segment can be taken meanwhile."""
    segment = attach(segment_name(house.instance.name, Kind.LOAD), Kind.LOAD, writable=True)
    whole = bytes(segment.payload)
    segment.payload[:] = bytes(byte ^ 0xFF for byte in whole)
    try:
        yield
    finally:
        segment.payload[:] = whole
        segment.close()
