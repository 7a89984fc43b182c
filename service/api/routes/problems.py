"""What each problem type means: the addresses that errors carry in `type`."""

from __future__ import annotations

from fastapi import APIRouter

from vlibrary.api.http.problem_types import PROBLEM_TYPES
from vlibrary.api.http.responses import problems
from vlibrary.domain.errors import NotFound
from vlibrary.schemas.vectors import ProblemTypeOut

router = APIRouter(prefix="/problems", tags=["problems"])


@router.get(
    "/{slug}", operation_id="get_problem_type", summary="What does this problem mean?", responses=problems(404, 422)
)
def describe(slug: str) -> ProblemTypeOut:
    """Every error's `type` leads here."""
    found = PROBLEM_TYPES.get(slug)
    if found is None:
        raise NotFound(f"There is no problem type {slug!r}.", "See the errors that /docs declares for each path.")
    return ProblemTypeOut(
        type=found.address,
        title=found.title,
        status=found.status,
        description=f"{found.title}. The problem's detail says what was wrong, its cure what to do.",
    )
