"""Every problem type that the api can answer with: one table, from which problems are made and explained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus

from vlibrary.domain import errors
from vlibrary.http_common import status_of


@dataclass(frozen=True)
class ProblemType:
    """code: what follows /problems/ in a problem's `type`; an ErrorCode, or the reason phrase of a bare HTTP status."""

    code: str
    title: str
    status: int

    @property
    def address(self) -> str:
        """A problem's `type`, and the path of the page that explains it."""
        return f"/problems/{self.code}"


INVALID_REQUEST = ProblemType(errors.ErrorCode.INVALID_REQUEST, "The request does not match the API", 422)
UNFORESEEN = ProblemType(errors.ErrorCode.UNFORESEEN, "Unexpected error", 500)


def of_error(error: errors.VLibraryError) -> ProblemType:
    """The type of an error of ours."""
    return ProblemType(error.code, error.title, int(status_of(error)))


def of_status(status: int) -> ProblemType:
    """The type of an error of which nothing but the status is known. Raises ValueError for a number HTTP lacks."""
    return PROBLEM_TYPES[_bare(HTTPStatus(status)).code]


def _bare(status: HTTPStatus) -> ProblemType:
    return ProblemType(status.phrase.lower().replace(" ", "-").replace("'", ""), status.phrase, int(status))


def _all() -> dict[str, ProblemType]:
    bare = [_bare(status) for status in HTTPStatus if status >= HTTPStatus.BAD_REQUEST]
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and kind is not errors.VLibraryError]
    ours = [of_error(kind("", "")) for kind in kinds if issubclass(kind, errors.VLibraryError)]
    # Ours last: a bare 404 is the NotFound of ours, so that a type has one title.
    return {found.code: found for found in (*bare, INVALID_REQUEST, UNFORESEEN, *ours)}


PROBLEM_TYPES: Mapping[str, ProblemType] = _all()
