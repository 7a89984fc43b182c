"""Documentation of the problem types, at the address in every error's `type`."""

from __future__ import annotations

from fastapi import APIRouter

from vlibrary.api.http.problems import PROBLEM_TYPES
from vlibrary.api.http.responses import problems
from vlibrary.domain.errors import NotFound
from vlibrary.schemas.problems import ProblemTypeOut

router = APIRouter(prefix="/problems", tags=["problems"])


@router.get(
    "/{slug}", operation_id="get_problem_type", summary="Get the meaning of a problem", responses=problems(404, 422)
)
def get_problem_type(slug: str) -> ProblemTypeOut:
    """Returns the problem type that an error's `type` links to."""
    found = PROBLEM_TYPES.get(slug)
    if found is None:
        raise NotFound(f"Unknown problem type {slug!r}.", "See the errors of each path in /docs.")
    return ProblemTypeOut(
        type=found.address,
        title=found.title,
        status=found.status,
        description=f"{found.title}. The error's `detail` says what is wrong, its `cure` what to do.",
    )
