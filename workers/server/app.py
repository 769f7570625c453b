"""The HTTP app of a leader, built from values."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from workers.engine.acceptance import ChargeDesk
from workers.engine.occupation import Change
from workers.engine.totals import Totals
from workers.errors import WorkerError
from workers.lockstep.barrier_totals import BarrierFigures
from workers.server.access import KeyOwner
from workers.server.bodies import SettleBody, parse
from workers.server.charge import ChargeOwner, check_epoch, read_charge
from workers.server.client import EngineClient
from workers.server.drain import Drain
from workers.server.errors import ApiError, ClientGone, from_error
from workers.server.generation import Generation
from workers.server.intake import Intake
from workers.server.occupation import OccupationDesk, ReleaseBody, TagsBody, as_json
from workers.server.prefix_feed import PrefixEvents, PrefixFeed
from workers.server.sending import read_body

logger = logging.getLogger("levelhead.workers.server")


class Service(NamedTuple):
    """
    What the app serves.

    epoch: the group's.  max_request_bytes: of a body.  is_ready: whether the engine
    takes requests, and gets on with them.  totals: what has left the engine amounts to.
    instance_key: what requests must bring; None: nothing.
    prefix_feed: tells what the prefix cache holds; None if there is none.
    occupation: gives memory back and takes it; None: nobody may ask for that.
    barrier: what waiting for each other costs the groups; None where they do not, or where
    another leader knows it.
    """

    intake: Intake
    client: EngineClient
    desk: ChargeDesk
    drain: Drain
    epoch: int
    num_front_doors: int
    max_request_bytes: int
    is_ready: Callable[[], bool]
    totals: Callable[[], Totals]
    instance_key: str | None = None
    prefix_feed: PrefixFeed | None = None
    occupation: OccupationDesk | None = None
    barrier: Callable[[], BarrierFigures] | None = None


def build_app(service: Service) -> ASGIApp:
    """Return the app, with the owners of charges and of the key around it."""
    app = FastAPI(title="levelhead worker", docs_url=None, redoc_url=None, openapi_url=None)
    generation = {
        "/v1/chat/completions": service.intake.chat,
        "/v1/completions": service.intake.completion,
        "/generate": service.intake.generate,
    }
    for path, prepare in generation.items():
        endpoint = Generation(service.client, prepare, service.max_request_bytes, service.drain)
        app.router.routes.append(Route(path, endpoint, methods=["POST"]))
    if service.prefix_feed is not None:
        events = PrefixEvents(service.prefix_feed)
        app.router.routes.append(Route("/prefix_events", events, methods=["GET"]))
    _add_information(app, service)
    _add_tokenize(app, service)
    _add_settle(app, service)
    if service.occupation is not None:
        _add_occupation(app, service, service.occupation)
    app.add_exception_handler(ApiError, _api_error)
    app.add_exception_handler(ClientGone, _client_gone)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(Exception, _unexpected)
    owner = ChargeOwner(app, service.desk, service.num_front_doors, service.epoch)
    return owner if service.instance_key is None else KeyOwner(owner, service.instance_key)


def _add_information(app: FastAPI, service: Service) -> None:
    model = service.intake.model
    started = int(time.time())

    @app.get("/v1/models")
    async def models() -> Response:
        card = {"id": model.name, "object": "model", "created": started, "owned_by": "levelhead"}
        card |= {"root": model.name, "parent": None, "max_model_len": model.max_model_len}
        return JSONResponse({"object": "list", "data": [card]})

    @app.get("/health")
    async def health() -> Response:
        return Response(status_code=200 if service.is_ready() else 503)

    @app.get("/totals")
    async def totals() -> Response:
        told: dict[str, Any] = service.totals()._asdict()
        if service.barrier is not None:
            told["barrier"] = service.barrier().as_dict()
        return JSONResponse(told)


def _add_tokenize(app: FastAPI, service: Service) -> None:
    @app.post("/tokenize")
    async def tokenize(request: Request) -> Response:
        tokens = await service.intake.tokenize(await _body(request, service))
        limit = service.intake.model.max_model_len
        return JSONResponse({"count": len(tokens), "max_model_len": limit, "tokens": tokens})


def _add_settle(app: FastAPI, service: Service) -> None:
    @app.post("/settle")
    async def settle(request: Request) -> Response:
        body = parse(SettleBody, await _body(request, service))
        check_epoch(body.group_epoch, service.epoch)
        charge = read_charge(
            body.dp_balance_id, body.front_door, str(body.charge_tokens), service.num_front_doors
        )
        return JSONResponse({"seen": service.desk.settle(charge)})


def _add_occupation(app: FastAPI, service: Service, desk: OccupationDesk) -> None:
    @app.post("/release_memory_occupation")
    async def release(request: Request) -> Response:
        body = parse(ReleaseBody, await _body(request, service) or b"{}")
        return await _changed(desk.release(body))

    @app.post("/resume_memory_occupation")
    async def resume(request: Request) -> Response:
        body = parse(TagsBody, await _body(request, service) or b"{}")
        return await _changed(desk.resume(body))


async def _changed(changing: Awaitable[Change]) -> Response:
    try:
        return JSONResponse(as_json(await changing))
    except WorkerError as error:
        raise from_error(error) from error


async def _body(request: Request, service: Service) -> bytes:
    return await read_body(request.receive, service.max_request_bytes)


async def _client_gone(request: Request, error: Exception) -> Response:
    return Response()  # which nobody reads


async def _api_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return JSONResponse(error.body, error.status, dict(error.headers))


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    message = f"{request.method} {request.url.path}: {error.detail}"
    headers = None if error.headers is None else dict(error.headers)
    return JSONResponse(ApiError(error.status_code, message).body, error.status_code, headers)


async def _unexpected(request: Request, error: Exception) -> Response:
    logger.error("%s %s failed", request.method, request.url.path, exc_info=error)
    told = ApiError(500, f"internal error: {type(error).__name__}", kind="internal_server_error")
    return JSONResponse(told.body, told.status)
