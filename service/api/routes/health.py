"""Health checks and served models."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version

from fastapi import APIRouter, Response

from vlibrary.api.http.deps import LibraryDep
from vlibrary.api.http.responses import problems
from vlibrary.domain.errors import VLibraryError
from vlibrary.library.library import Library
from vlibrary.library.reindex import catch_up
from vlibrary.schemas.health import CheckOut, LiveOut, ModelOut, ModelsOut, ReadyOut, VersionOut

router = APIRouter(tags=["health"])


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
def check_readiness(library: LibraryDep, response: Response) -> ReadyOut:
    """Checks the catalogue, the artifact store, the index and the worker. Returns 503 if one is unavailable."""
    checks = []
    for name, check in _checks(library).items():
        try:
            checks.append(CheckOut(name=name, ok=True, detail=check()))
        except VLibraryError as error:
            checks.append(CheckOut(name=name, ok=False, detail=str(error)))
    ready = all(check.ok for check in checks)
    if not ready:
        response.status_code = 503
    return ReadyOut(ready=ready, checks=checks)


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


def _checks(library: Library) -> dict[str, Callable[[], str]]:
    """Return the checks by name; each returns a detail or raises."""

    def check_artifacts() -> str:
        library.artifacts.check()
        return "readable and writable"

    return {
        "catalogue": lambda: f"at sequence number {library.catalogue.change_log.position().seq}",
        "artifacts": check_artifacts,
        "index": lambda: f"applied up to sequence number {catch_up(library.catalogue.change_log, library.index).seq}",
        "worker": lambda: f"serves {', '.join(info.model.model_id for info in library.worker.models())}",
    }
