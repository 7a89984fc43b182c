"""Health checks and served models."""

from __future__ import annotations

import asyncio
from importlib.metadata import version
from typing import Literal

from fastapi import APIRouter, Request, Response

from vlibrary.api.http.admission import AdmissionControl
from vlibrary.api.http.deps import LibraryDep
from vlibrary.api.http.responses import problems
from vlibrary.schemas.health import CheckOut, LiveOut, ModelOut, ModelsOut, ReadyOut, VersionOut
from vlibrary.upkeep.readiness import Readiness

router = APIRouter(tags=["health"])

# How often and how long a readiness check waits for results that are newer than the request.
_WAITS, _WAIT_S = 6, 0.004


@router.get("/livez", operation_id="live", summary="Check liveness")
async def check_liveness() -> LiveOut:
    """Returns 200 while the process runs. Accesses no store."""
    return LiveOut()


@router.get(
    "/readyz",
    operation_id="ready",
    summary="Check readiness",
    responses={503: {"model": ReadyOut, "description": "A dependency is unavailable"}},
)
async def check_readiness(request: Request, response: Response) -> ReadyOut:
    """Reports the last checks of the catalogue, the index, the worker and the artifact store, made in the background.

    Returns 503 if answers are impossible, and while the service shuts down. Without the artifact store, the status is
    `degraded`. Takes less than 50 ms, whatever the parts do; nothing is written.
    """
    readiness: Readiness = request.app.state.readiness
    control: AdmissionControl = request.app.state.admission
    asked = readiness.ask()
    for _ in range(_WAITS):  # parts usually respond at once
        if readiness.is_newer(asked):
            break
        await asyncio.sleep(_WAIT_S)
    results = readiness.results()
    checks = [CheckOut(name=one.name, ok=one.ok, detail=one.detail) for one in results]
    if control.leaving:
        checks.append(CheckOut(name="service", ok=False, detail="shutting down"))
    ready = not control.leaving and all(one.ok for one in results if one.needed)
    if not ready:
        response.status_code = 503
    status: Literal["ready", "degraded"] = "ready" if all(one.ok for one in results) else "degraded"
    return ReadyOut(ready=ready, status=status if ready else "unready", checks=checks)


@router.get(
    "/health",
    operation_id="health",
    summary="Check the worker, as vLLM does",
    response_class=Response,
    responses=problems(503),
)
async def check_health(library: LibraryDep) -> Response:
    """Returns 200 without a body if a worker can answer. Accesses no store; `GET /readyz` checks all dependencies."""
    library.worker.models()
    return Response()


@router.get("/version", operation_id="version", summary="Get the version of the service")
async def get_version() -> VersionOut:
    """Returns the version of VLibrary, as vLLM does its own."""
    return VersionOut(version=version("vlibrary"))


@router.get("/models", operation_id="list_models", summary="List served models", responses=problems(503))
def list_models(library: LibraryDep) -> ModelsOut:
    """Returns each served base model with its query embedder."""
    return ModelsOut(items=[ModelOut.of(info) for info in library.worker.models()])
