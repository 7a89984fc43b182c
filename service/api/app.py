"""The HTTP app over given library; it builds nothing itself."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

from fastapi import Depends, FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi_offline import FastAPIOffline
from pydantic.json_schema import models_json_schema
from starlette.types import Lifespan

from vlibrary.api.http import errors
from vlibrary.api.http.admission import Gate
from vlibrary.api.http.body_limit import BodyLimit
from vlibrary.api.http.deps import Limits
from vlibrary.api.http.metrics import Measured, Metrics
from vlibrary.api.http.unknown_parameters import refuse_unknown_parameters
from vlibrary.api.openai.schemas import ChatIn
from vlibrary.api.routes import aliases, archive, audit, chat, generate, health, lifecycle, problems, retrieve, vectors
from vlibrary.api.routes import metrics as figures
from vlibrary.library.library import Library
from vlibrary.schemas.generate import GenerateIn, TokenOut
from vlibrary.schemas.registry import AliasIn, AmendIn
from vlibrary.schemas.vectors import ProblemOut, RetrieveIn

# Bodies and events that routes read and write by hand (see bodies.py, streams.py).
SCHEMAS = (RetrieveIn, GenerateIn, TokenOut, ChatIn, ProblemOut, AmendIn, AliasIn)
STRICT = (vectors, lifecycle, aliases, archive, audit, retrieve, generate)
LENIENT = (chat, health, figures, problems)  # asked by clients and tools that others made
DESCRIPTION = """\
Stores in-context vectors for vision-language models, finds the right one for an image + text query, and applies it
while the model answers. This page is the admin dashboard: **Try it out** sends real requests.

1. `POST /vectors` registers a vector that `vlibrary train` made.
2. `GET /retrieve?query=` (or `POST /retrieve` with images) finds the vectors that fit.
3. `POST /generate` answers with the best one applied, and names it.

Clients made for OpenAI's API use `/v1` as their base URL.
"""


def create_app(
    library: Library,
    limits: Limits | None = None,
    *,
    metrics: Metrics | None = None,
    lifespan: Lifespan[FastAPI] | None = None,
) -> FastAPI:
    """The service, with docs pages that need no internet.

    metrics: what /metrics shows. lifespan: what to do when it starts and stops.
    """
    limits = limits or Limits()
    app: FastAPI = FastAPIOffline(
        title="VLibrary",
        version=version("vlibrary"),
        description=DESCRIPTION,
        openapi_url="/openapi.json",
        lifespan=lifespan,
    )
    app.state.library = library
    app.state.limits = limits
    app.state.gate = Gate(limits.inside)
    app.state.metrics = metrics or Metrics()
    for routes in STRICT:
        app.include_router(routes.router, dependencies=[Depends(refuse_unknown_parameters)])
    for routes in LENIENT:
        app.include_router(routes.router)
    errors.install(app)
    app.add_middleware(BodyLimit, most=limits.request_bytes)
    app.add_middleware(Measured, metrics=app.state.metrics)
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]  # FastAPI's documented way to extend it
    return app


def _openapi(app: FastAPI) -> dict[str, Any]:
    """FastAPI's document, plus the schemas of bodies that are read by hand (JSON or form, see bodies.py)."""
    if app.openapi_schema is None:
        document = get_openapi(
            title=app.title, version=app.version, description=app.description, routes=app.routes, servers=[{"url": "/"}]
        )
        _, extra = models_json_schema(
            [(model, "validation") for model in SCHEMAS],
            ref_template="#/components/schemas/{model}",
        )
        document["components"]["schemas"].update(extra["$defs"])
        app.openapi_schema = document
    return app.openapi_schema
