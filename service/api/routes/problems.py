"""What each problem type means: the addresses that errors carry in `type`."""

from __future__ import annotations

import inspect

from fastapi import APIRouter

from service.api.responses import problems
from service.api.schemas import ProblemTypeOut
from service.domain import errors
from service.edge import status_of

router = APIRouter(prefix="/problems", tags=["problems"])


@router.get(
    "/{slug}", operation_id="get_problem_type", summary="What does this problem mean?", responses=problems(404, 422)
)
def describe(slug: str) -> ProblemTypeOut:
    """Every error's `type` leads here."""
    for _, kind in inspect.getmembers(errors, inspect.isclass):
        if issubclass(kind, errors.VLibraryError) and kind.slug == slug and kind is not errors.VLibraryError:
            probe = kind("", "")
            return ProblemTypeOut(
                type=f"/problems/{slug}",
                title=kind.title,
                status=int(status_of(probe)),
                description=f"{kind.title}. The problem's detail says what was wrong, its cure what to do.",
            )
    raise errors.NotFound(f"There is no problem type {slug!r}.", "See the errors that /docs declares for each path.")
