"""Whether the service lives, is ready, and what it serves."""

from __future__ import annotations

from collections.abc import Callable

from fastapi import APIRouter, Response

from vlibrary.api.http.deps import UseLibrary
from vlibrary.api.http.responses import problems
from vlibrary.domain.errors import VLibraryError
from vlibrary.library.library import Library
from vlibrary.library.reindex import catch_up
from vlibrary.schemas.health import CheckOut, LiveOut, ModelOut, ModelsOut, ReadyOut

router = APIRouter(tags=["health"])


@router.get("/livez", operation_id="live", summary="Does the process answer?")
async def live() -> LiveOut:
    """No store is asked."""
    return LiveOut()


@router.get(
    "/readyz",
    operation_id="ready",
    summary="Can it take requests?",
    responses={503: {"model": ReadyOut, "description": "Some part does not answer"}},
)
def ready(library: UseLibrary, response: Response) -> ReadyOut:
    """Asks the catalogue, the artifact store, the index and the worker."""
    checks = [_check(name, ask) for name, ask in _questions(library).items()]
    fine = all(check.ok for check in checks)
    if not fine:
        response.status_code = 503
    return ReadyOut(ready=fine, checks=checks)


@router.get("/models", operation_id="list_models", summary="Which models are served?", responses=problems(503))
def models(library: UseLibrary) -> ModelsOut:
    """Each base model with the embedder whose keys its vectors carry."""
    return ModelsOut(items=[ModelOut.of(info) for info in library.worker.models()])


def _questions(library: Library) -> dict[str, Callable[[], str]]:
    return {
        "catalogue": lambda: f"at change {library.catalogue.position().seq}",
        "artifacts": lambda: _artifacts(library),
        "index": lambda: f"applied up to change {catch_up(library.catalogue, library.index).seq}",
        "worker": lambda: f"serves {', '.join(info.model.model_id for info in library.worker.models())}",
    }


def _artifacts(library: Library) -> str:
    library.artifacts.check()
    return "can be read and written"


def _check(name: str, ask: Callable[[], str]) -> CheckOut:
    try:
        return CheckOut(name=name, ok=True, detail=ask())
    except VLibraryError as error:
        return CheckOut(name=name, ok=False, detail=str(error))
