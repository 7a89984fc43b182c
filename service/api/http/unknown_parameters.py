"""A request may name only what its route declares: a filter with a slip in its name would filter nothing."""

from __future__ import annotations

from fastapi import Request

from vlibrary.domain.errors import InvalidInput


def refuse_unknown_parameters(request: Request) -> None:
    """Raises InvalidInput for a query parameter that the route does not declare."""
    if not request.query_params:
        return
    known = _declared(request)
    unknown = sorted(set(request.query_params) - known)
    if unknown:
        raise InvalidInput(
            f"There is no query parameter {unknown[0]!r} here.",
            f"Known are {sorted(known)}." if known else "Leave it out: this address takes none.",
        )


def _declared(request: Request) -> set[str]:
    """As the docs pages show them."""
    operation = request.app.openapi()["paths"][request.scope["route"].path_format][request.method.lower()]
    return {one["name"] for one in operation.get("parameters", []) if one["in"] == "query"}
