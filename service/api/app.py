"""The FastAPI app, given its stores and workers."""

from __future__ import annotations

from collections.abc import Collection
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI
from fastapi_offline import FastAPIOffline
from pydantic.json_schema import models_json_schema
from starlette.types import Lifespan

from vlibrary.api.http.admission import AdmissionControl
from vlibrary.api.http.deps import Limits
from vlibrary.api.http.errors import install_handlers
from vlibrary.api.http.metrics import Metrics, MetricsMiddleware
from vlibrary.api.http.middleware.answer_headers import AnswerHeaders
from vlibrary.api.http.middleware.body_intake import BodyIntake, Pace
from vlibrary.api.http.middleware.browser_guard import PRIVATE, BrowserGuard
from vlibrary.api.http.middleware.content_encoding import ContentEncoding
from vlibrary.api.http.middleware.cors import allow_origins
from vlibrary.api.http.middleware.head import HeadAsGet
from vlibrary.api.http.middleware.request_id import RequestIds
from vlibrary.api.http.middleware.size_limits import BodyLimit, UrlLimit
from vlibrary.api.http.problems import OPENAI_PREFIX
from vlibrary.api.http.responses import problems as problems_of
from vlibrary.api.openai.chat import ChatIn
from vlibrary.api.openai.completions.request import CompletionsIn
from vlibrary.api.openai.embeddings import EmbeddingsIn
from vlibrary.api.openai.responses.request import ResponsesIn
from vlibrary.api.routes import (
    aliases,
    archive,
    audit,
    generate,
    health,
    lifecycle,
    problems,
    retrieve,
    vectors,
)
from vlibrary.api.routes import (
    metrics as metrics_route,
)
from vlibrary.api.routes.v1 import chat, completions, embeddings, models, responses
from vlibrary.library.library import Library
from vlibrary.schemas.generate import GenerateIn, TokenOut
from vlibrary.schemas.problems import ProblemOut
from vlibrary.schemas.registry import AliasIn, AmendIn
from vlibrary.schemas.vectors import RetrieveIn
from vlibrary.upkeep.readiness import readiness_of

# Schemas of bodies and events that FastAPI does not see; see http/bodies.py and http/streams.py.
SCHEMAS = (
    AmendIn,
    AliasIn,
    RetrieveIn,
    GenerateIn,
    ChatIn,
    CompletionsIn,
    ResponsesIn,
    EmbeddingsIn,
    TokenOut,
    ProblemOut,
)
ROUTES = (
    vectors,
    lifecycle,
    aliases,
    archive,
    audit,
    retrieve,
    generate,
    chat,
    completions,
    embeddings,
    models,
    responses,
    health,
    metrics_route,
    problems,
)
DESCRIPTION = """\
Store in-context vectors for vision-language models, find the best one for an image + text query, and apply it while
the model answers. On this page, **Try it out** sends real requests.

1. `POST /vectors` registers a vector trained with `vlibrary train`.
2. `GET /retrieve?query=` (or `POST /retrieve` with images) finds vectors that match a query.
3. `POST /generate` answers a prompt with the best match applied, and names the vector.

OpenAI clients use `/v1` as their base URL.
"""


def create_app(
    library: Library,
    limits: Limits | None = None,
    *,
    metrics: Metrics | None = None,
    cors_origins: Collection[str] = (),
    allowed_hosts: Collection[str] = (PRIVATE,),
    lifespan: Lifespan[FastAPI] | None = None,
) -> FastAPI:
    """Return the app; its documentation pages work offline.

    metrics: exposed at /metrics. cors_origins: see allow_origins. allowed_hosts: see BrowserGuard. lifespan: runs at
    startup and shutdown.
    """
    limits = limits or Limits()
    app: FastAPI = FastAPIOffline(
        title="VLibrary",
        version=version("vlibrary"),
        description=DESCRIPTION,
        servers=[{"url": "/"}],
        lifespan=lifespan,
    )
    app.state.library = library
    app.state.limits = limits
    app.state.admission = AdmissionControl(limits.max_requests, limits.timeout_s)
    app.state.readiness = readiness_of(library)
    app.state.metrics = metrics or Metrics()
    for routes in ROUTES:
        app.include_router(routes.router)
    install_handlers(app)
    # The last one is the outermost.
    pace = Pace(limits.body_start_s, most_s=limits.timeout_s)
    app.add_middleware(BodyIntake, max_bytes=limits.bodies_bytes, pace=pace)
    app.add_middleware(ContentEncoding, max_body_size=limits.request_bytes)
    app.add_middleware(BodyLimit, max_body_size=limits.request_bytes)
    app.add_middleware(UrlLimit)
    app.add_middleware(AnswerHeaders)
    app.add_middleware(MetricsMiddleware, metrics=app.state.metrics)
    stack = app.build_middleware_stack
    # Around Starlette's answer to unexpected errors too, which is outside of all middleware that is added.
    app.build_middleware_stack = lambda: RequestIds(  # type: ignore[method-assign]
        BrowserGuard(allow_origins(HeadAsGet(stack()), cors_origins), allowed_hosts, cors_origins)
    )
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]  # FastAPI's documented way to extend it
    return app


def _openapi(app: FastAPI) -> dict[str, Any]:
    """Return FastAPI's document with SCHEMAS added, and as OpenAI's API answers invalid requests."""
    if app.openapi_schema is None:
        _, extra = models_json_schema(
            [(model, "validation") for model in SCHEMAS], ref_template="#/components/schemas/{model}"
        )
        document = FastAPI.openapi(app)
        document["components"]["schemas"].update(extra["$defs"])
        for path, operations in document["paths"].items():
            for operation in operations.values():
                _describe_http(operation)
                if path.startswith(OPENAI_PREFIX):
                    operation["responses"].pop("422", None)  # added by FastAPI; OpenAI's clients expect 400
    return FastAPI.openapi(app)


def _describe_http(operation: dict[str, Any]) -> None:
    """Add what holds for all requests, and remove null from parameters: neither a query nor a header can send it."""
    statuses = [408, 414, 415, 429] if "requestBody" in operation else [414]
    operation["responses"] |= {str(status): answer for status, answer in problems_of(*statuses).items()}
    for parameter in operation.get("parameters", []):
        schema = parameter["schema"]
        options = [one for one in schema.pop("anyOf", []) if one != {"type": "null"}]
        parameter["schema"] = (options[0] if len(options) == 1 else {"anyOf": options} if options else {}) | schema
