"""Bodies of the registry's routes: amendments, aliases, lineage, the audit log, and what became of an import."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from vlibrary.domain.card import MAX_DESCRIPTION, Status, VectorRecord
from vlibrary.domain.labels import MAX_METADATA, MAX_TAGS, MetadataValue
from vlibrary.domain.ports import Alias, AuditEntry
from vlibrary.library.amend import Changes
from vlibrary.library.audit import AuditPage
from vlibrary.library.lineage import Lineage
from vlibrary.library.references import MAX_REFERENCE
from vlibrary.library.transfer import Loaded, Outcome
from vlibrary.schemas.fields import StrictIn
from vlibrary.schemas.vectors import NAMED_EXAMPLE, ProblemOut, example

_ID = NAMED_EXAMPLE["id"]
_TIME = "2026-11-22T12:00:00Z"
_RELATIVE = NAMED_EXAMPLE | {"state": "active"}
_ALIAS = {"name": "colour", "alias": "production", "id": _ID, "revision": 7, "changed_at": _TIME}


class AmendIn(StrictIn):
    """What shall be different of a vector; what is left out stays. tags and metadata are replaced as a whole."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "description": "Which colour a drawn shape has",
                    "tags": ["checked", "colour"],
                    "metadata": {"shots": 16, "split": "train", "checked": True},
                }
            ]
        }
    )

    description: str | None = Field(default=None, max_length=MAX_DESCRIPTION)
    tags: list[str] | None = Field(default=None, max_length=MAX_TAGS)
    metadata: dict[str, MetadataValue] | None = Field(default=None, max_length=MAX_METADATA)

    def changes(self) -> Changes:
        """As the library takes it."""
        return Changes(self.description, None if self.tags is None else tuple(self.tags), self.metadata)


class AliasIn(StrictIn):
    """Where the alias shall point."""

    model_config = example({"vector": "colour:1"})

    vector: str = Field(max_length=MAX_REFERENCE, description="Id, name (its newest version), name:3 or name@alias")


class AliasOut(BaseModel):
    """A name's pointer to one of its vectors: name@alias."""

    model_config = example(_ALIAS)

    name: str
    alias: str
    id: str = Field(description="The vector that it points to")
    revision: int = Field(description='Its ETag is "v<revision>"')
    changed_at: datetime

    @classmethod
    def of(cls, alias: Alias) -> AliasOut:
        return cls(
            name=alias.name,
            alias=alias.alias,
            id=alias.vector_id,
            revision=alias.revision,
            changed_at=alias.changed_at,
        )


class AliasesOut(BaseModel):
    """Aliases, by name and alias."""

    model_config = example({"items": [_ALIAS]})

    items: list[AliasOut]


class RelativeOut(BaseModel):
    """A vector in another's lineage."""

    id: str
    name: str
    version: int
    sha256: str
    state: Status

    @classmethod
    def of(cls, record: VectorRecord) -> RelativeOut:
        return cls(id=record.id, name=record.name, version=record.version, sha256=record.sha256, state=record.status)


class LineageOut(BaseModel):
    """One generation each way, deleted vectors included."""

    model_config = example({"id": _ID, "parents": [_RELATIVE], "missing": [], "children": [], "more": False})

    id: str
    parents: list[RelativeOut] = Field(description="What it was derived from")
    missing: list[str] = Field(description="Ids of parents that this library does not have, or no more")
    children: list[RelativeOut] = Field(description="What was derived from it, newest first, up to 100")
    more: bool = Field(description="GET /vectors?derived_from= has more children")

    @classmethod
    def of(cls, found: Lineage) -> LineageOut:
        return cls(
            id=found.record.id,
            parents=list(map(RelativeOut.of, found.parents)),
            missing=list(found.missing),
            children=list(map(RelativeOut.of, found.children)),
            more=found.more,
        )


class AuditEntryOut(BaseModel):
    """Who did what to what."""

    seq: int
    at: datetime
    actor: str
    action: str
    subject: str = Field(description="Id of a vector, name@alias, or another part of the library")
    detail: dict[str, Any]

    @classmethod
    def of(cls, entry: AuditEntry) -> AuditEntryOut:
        return cls(
            seq=entry.seq,
            at=entry.at,
            actor=entry.actor,
            action=entry.action,
            subject=entry.subject,
            detail=dict(entry.detail),
        )


class AuditOut(BaseModel):
    """Entries of the audit log, oldest first."""

    model_config = example(
        {
            "items": [
                {
                    "seq": 1,
                    "at": _TIME,
                    "actor": "anonymous",
                    "action": "vector.publish",
                    "subject": _ID,
                    "detail": {"name": "colour-codes", "version": 1},
                }
            ],
            "next": None,
        }
    )

    items: list[AuditEntryOut]
    next: int | None = Field(
        description="Give it as after to read on; null at the log's end. A page may have few items and yet a next one"
    )

    @classmethod
    def of(cls, page: AuditPage) -> AuditOut:
        return cls(items=list(map(AuditEntryOut.of, page.entries)), next=page.next)


class ImportedOut(BaseModel):
    """What became of one vector of the archive."""

    id: str = Field(description="The same here as in the library that it comes from")
    name: str
    version: int | None = Field(description="Here; null when it was refused")
    state: Status | None
    outcome: Outcome = Field(
        description="present: the library had this very vector already; differs: with another description, tags or "
        "metadata, which stay; updated: and now it has the archive's"
    )
    problem: ProblemOut | None = Field(description="Why it was refused")

    @classmethod
    def of(cls, loaded: Loaded, problem: ProblemOut | None) -> ImportedOut:
        """problem: why the vector was refused, if it was."""
        record = loaded.record
        return cls(
            id=loaded.entry.id,
            name=loaded.entry.name,
            version=None if record is None else record.version,
            state=None if record is None else record.status,
            outcome=loaded.outcome,
            problem=problem,
        )


class ImportOut(BaseModel):
    """What became of an archive, vector by vector."""

    model_config = example(
        {
            "items": [
                {
                    "id": _ID,
                    "name": "colour-codes",
                    "version": 1,
                    "state": "active",
                    "outcome": "imported",
                    "problem": None,
                }
            ]
        }
    )

    items: list[ImportedOut]
