"""
The OpenAPI document of an instance: the control plane's routes, and what front doors answer.

A client sees one address and does not know which process answers, so there is one document.
"""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from router.control_plane.client_bodies import (
    ChatRequest,
    CompletionRequest,
    GenerateRequest,
    TokenizeRequest,
)
from router.control_plane.standing import Refusal

_REF = "#/components/schemas/{model}"
_JSON, _STREAM = "application/json", "text/event-stream"


_BODIES: dict[str, tuple[type[BaseModel], str]] = {
    "/v1/chat/completions": (ChatRequest, "The next message of a conversation"),
    "/v1/completions": (CompletionRequest, "What follows a prompt"),
    "/generate": (GenerateRequest, "SGLang's own endpoint, which its frontend language uses"),
}
_PROBES = {
    "/health": "Whether this front door answers",
    "/ready": "Whether a DP group can take a request: 200, or 503",
}


def add_document(app: FastAPI) -> None:
    """Have the application tell of everything that the instance answers."""

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _document(app)
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]  # as FastAPI's documentation says


def _document(app: FastAPI) -> dict[str, Any]:
    found = get_openapi(
        title=app.title, version=app.version, summary=app.summary, routes=app.routes
    )
    paths: dict[str, Any] = found["paths"]
    paths |= {path: {"post": _inference(*told)} for path, told in _BODIES.items()}
    paths |= {path: {"get": _probe(told)} for path, told in _PROBES.items()}
    paths["/tokenize"]["post"]["requestBody"] = _body(TokenizeRequest)
    for operations in paths.values():
        for operation in operations.values():
            operation["responses"].pop("422", None)  # FastAPI's; ours is 400, in OpenAI's form
            operation["responses"]["default"] = _answer("Refused, or failed", Refusal)
    schemas = found.setdefault("components", {}).setdefault("schemas", {})
    schemas |= _schemas()
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    return found


def _schemas() -> dict[str, Any]:
    bodies = [model for model, _ in _BODIES.values()]
    models: list[type[BaseModel]] = [Refusal, TokenizeRequest, *bodies]
    _, told = models_json_schema([(model, "validation") for model in models], ref_template=_REF)
    schemas: dict[str, Any] = told["$defs"]
    return schemas


def _inference(model: type[BaseModel], summary: str) -> dict[str, Any]:
    answer = {"description": "JSON, or with `stream` server-sent events"}
    content: dict[str, Any] = {kind: {"schema": {}} for kind in (_JSON, _STREAM)}
    return {
        "tags": ["inference"],
        "summary": summary,
        "operationId": model.__name__,
        "requestBody": _body(model),
        "responses": {"200": answer | {"content": content}},
    }


def _probe(summary: str) -> dict[str, Any]:
    answer = {"description": "Yes", "content": {_JSON: {"schema": {"type": "object"}}}}
    return {"tags": ["probe"], "summary": summary, "responses": {"200": answer}}


def _body(model: type[BaseModel]) -> dict[str, Any]:
    reference = {"$ref": _REF.format(model=model.__name__)}
    return {"required": True, "content": {_JSON: {"schema": reference}}}


def _answer(description: str, model: type[BaseModel]) -> dict[str, Any]:
    reference = {"$ref": _REF.format(model=model.__name__)}
    return {"description": description, "content": {_JSON: {"schema": reference}}}
