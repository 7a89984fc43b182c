"""Who did what to the library."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from vlibrary.api.http.deps import UseLibrary
from vlibrary.api.http.responses import problems
from vlibrary.library.audit import read_audit
from vlibrary.schemas.registry import AuditOut

router = APIRouter(prefix="/audit", tags=["audit"])


@router.get("", operation_id="read_audit", summary="Read the audit log", responses=problems(422, 503))
def entries(
    library: UseLibrary,
    after: Annotated[int, Query(ge=0, lt=2**53, description="The previous page's next")] = 0,
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
    subject: Annotated[str | None, Query(max_length=256, description="Only about this id or name@alias")] = None,
    actor: Annotated[str | None, Query(max_length=128, description="Only by this one")] = None,
) -> AuditOut:
    """Every change, oldest first, written in the same transaction as the change itself, without gaps in `seq`.

    Until the service knows accounts, `actor` is what the client wrote into `X-Actor`, and nobody has checked it.
    """
    return AuditOut.of(read_audit(library.catalogue, after=after, limit=limit, subject=subject, actor=actor))
