"""The audit log."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field

from vlibrary.api.http.deps import STRICT_QUERY, LibraryDep
from vlibrary.api.http.responses import problems
from vlibrary.library.audit import read_audit
from vlibrary.schemas.registry import AuditOut

router = APIRouter(prefix="/audit", tags=["audit"], dependencies=[STRICT_QUERY])


class AuditQuery(BaseModel):
    """Query parameters of the audit log."""

    model_config = ConfigDict(extra="forbid")

    after: int = Field(default=0, ge=0, lt=2**53, description="`next` of the previous page")
    limit: int = Field(default=50, ge=1, le=500, description="Page size")
    subject: str | None = Field(default=None, max_length=256, description="Only entries about this id or name@alias")
    actor: str | None = Field(default=None, max_length=128, description="Only entries by this actor")


@router.get("", operation_id="read_audit", summary="List the audit log", responses=problems(422, 503))
def list_audit_log(library: LibraryDep, query: Annotated[AuditQuery, Query()]) -> AuditOut:
    """Returns every change, oldest first. Entries are written in the transaction of the change; `seq` has no gaps.

    The service has no accounts: `actor` is the client's `X-Actor` header, unverified.
    """
    return AuditOut.of(read_audit(library.catalogue.audit_log, **query.model_dump()))
