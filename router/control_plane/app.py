"""The control plane's application: models, loads, metrics, tokenize, admin, docs."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel, ConfigDict
from starlette.exceptions import HTTPException

from router.backends.sources import standings
from router.control_plane.admin import add_admin
from router.control_plane.decisions import add_decisions
from router.control_plane.door_figures import front_doors_of
from router.control_plane.enrolled import Enrolled
from router.control_plane.figures import Figures, GroupFigures
from router.control_plane.front_doors import read_meters
from router.control_plane.kv_events.endpoint import add_prefix_events
from router.control_plane.kv_events.readers import KvReaders
from router.control_plane.loads import Loads, loads_of
from router.control_plane.members import Members
from router.control_plane.metrics import exposition
from router.control_plane.occupation import OccupationClient, add_occupation
from router.control_plane.open_api import add_document
from router.control_plane.page.page import add_page
from router.control_plane.tokenizing import Tokenizing, add_tokenize, any_ready
from router.control_plane.totals import TotalsReader
from router.errors import EnrolmentUnsaved
from router.instance import Instance
from shm.errors import TornRead
from shm.group_table import GroupEntry

_CODES = {404: "not_found", 405: "method_not_allowed", 409: "conflict"}


@dataclass(frozen=True, slots=True)
class ControlPlane:
    """What the routes use."""

    instance: Instance
    membership: Members
    figures: Figures
    tokenizing: Tokenizing
    totals: TotalsReader
    enrolled: Enrolled | None = None
    """Who the backends are; None with workers of ours."""
    kv_readers: KvReaders | None = None
    """Of backends' KV events; None: nobody publishes any, or nobody could read them."""
    occupation: OccupationClient | None = None
    """Asks leaders to give memory back; None: nobody can."""


class Model(BaseModel):
    """One served model, as OpenAI lists it."""

    id: str
    object: str = "model"
    created: int
    owned_by: str = "levelhead"
    max_model_len: int


class ModelInfo(BaseModel):
    """The served model, as SGLang tells of it."""

    model_config = ConfigDict(protected_namespaces=())

    model_path: str
    is_generation: bool = True


class Models(BaseModel):
    """All served models."""

    object: str = "list"
    data: list[Model]


def build_app(control: ControlPlane) -> FastAPI:
    """The application over those values."""
    app = FastAPI(title="levelhead", summary="Control plane of a level data-parallel engine")
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(TornRead, _torn)
    app.add_exception_handler(EnrolmentUnsaved, _unsaved)
    app.add_exception_handler(Exception, _unexpected)
    _add_models(app, control)
    _add_model_info(app, control)
    _add_figures(app, control)
    add_tokenize(app, control.membership, control.tokenizing)
    add_admin(app, control.membership, control.figures, control.enrolled)
    if control.occupation is not None:
        add_occupation(app, control.membership, control.occupation)
    add_decisions(app, control.instance)
    if control.kv_readers is not None:
        add_prefix_events(app, control.kv_readers, control.instance.instance_key)
    add_document(app)
    add_page(app)

    @app.get("/health", include_in_schema=False)
    async def health() -> Response:
        """For the root, which asks whether this process answers; clients' is the front door's."""
        return Response(status_code=200)

    return app


def _add_models(app: FastAPI, control: ControlPlane) -> None:
    def served() -> list[Model]:
        entries = [entry for entry in control.membership.groups if entry.model]
        by_name = {entry.model: entry for entry in entries}
        return [
            Model(
                id=name,
                created=control.instance.epoch // 1_000_000_000,
                max_model_len=entry.max_model_len,
            )
            for name, entry in by_name.items()
        ]

    @app.get("/v1/models", tags=["engine"], response_model=None if control.enrolled else Models)
    async def models() -> Models | Response:
        """The models that the groups serve; of backends, as their engines tell of them."""
        if control.enrolled is not None:
            return JSONResponse({"object": "list", "data": control.enrolled.models.all()})
        return Models(data=served())

    @app.get("/v1/models/{name:path}", tags=["engine"])
    async def model(name: str) -> Model:
        """One model."""
        for each in served():
            if each.id == name:
                return each
        names = ", ".join(each.id for each in served())
        raise HTTPException(404, f"the model {name!r} does not exist; there are: {names}")


def _add_model_info(app: FastAPI, control: ControlPlane) -> None:
    @app.get("/get_model_info", tags=["engine"])
    async def model_info() -> ModelInfo:
        """What SGLang's frontend language asks before anything else."""
        return ModelInfo(model_path=any_ready(control.membership.groups).model)


def _add_figures(app: FastAPI, control: ControlPlane) -> None:
    @app.get("/v1/loads", tags=["load"])
    async def loads(front_doors: bool = False) -> Loads:
        """Load of every DP group as the front doors see it; if asked, what these counted."""
        # Asked before the figures are read: one that hangs would let them grow old by seconds.
        meters = await read_meters(control.instance) if front_doors else None
        kv = control.kv_readers.conditions() if control.kv_readers else {}
        told = loads_of(control.figures.read(control.membership.groups), time.time(), kv)
        if meters is not None:
            told.front_doors = front_doors_of(control.instance, meters)
        return told

    @app.get("/metrics", tags=["load"], response_class=Response)
    async def metrics() -> Response:
        """Prometheus metrics of groups and front doors."""
        groups = control.membership.groups
        (meters, figures), totals = await asyncio.gather(
            _books_and_figures(control, groups), control.totals.read(groups)
        )
        told = exposition(
            figures,
            meters,
            totals,
            standings(control.enrolled.sources if control.enrolled else ()),
            control.kv_readers,
        )
        return Response(told, media_type=CONTENT_TYPE_LATEST)


async def _books_and_figures(
    control: ControlPlane, groups: tuple[GroupEntry, ...]
) -> tuple[list[dict[str, Any] | None], list[GroupFigures]]:
    """Of one time, as they are compared: a group that is slow to tell its totals delays neither."""
    meters = await read_meters(control.instance)
    return meters, control.figures.read(groups)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    found = _CODES.get(error.status_code)
    message = error.detail
    if message == "Not Found":
        message = f"there is no {request.url.path}"
    return _error(error.status_code, message, None, found, error.headers)


async def _torn(request: Request, error: Exception) -> Response:
    message = f"there are no figures yet: {error}"
    return _error(503, message, None, None, {"retry-after": "1"})


async def _unsaved(request: Request, error: Exception) -> Response:
    return _error(503, str(error), None, None, {"retry-after": "1"})


async def _unexpected(request: Request, error: Exception) -> Response:
    return _error(500, f"internal error: {type(error).__name__}", None, None, None)


async def _validation_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first: dict[str, Any] = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    return _error(400, f"{where}: {first['msg']}", where, None, None)


def _error(
    status: int, message: str, param: str | None, code: str | None, headers: Any
) -> Response:
    kind = "invalid_request_error" if status < 500 else "internal_error"
    error = {"message": message, "type": kind, "param": param, "code": code}
    return JSONResponse({"error": error}, status, headers=headers)
