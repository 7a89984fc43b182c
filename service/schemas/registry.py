"""Bodies of the registry routes: amendments, aliases, lineage, the audit log and imports."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import BaseModel, Field

from vlibrary.domain.card import MAX_DESCRIPTION, Status, VectorRecord
from vlibrary.domain.labels import MAX_METADATA, MAX_TAGS, MetadataValue
from vlibrary.domain.registration import Alias, Amendment, AuditEntry
from vlibrary.library.audit import AuditPage
from vlibrary.library.lineage import Lineage
from vlibrary.library.references import MAX_REFERENCE
from vlibrary.library.transfer import Loaded, Outcome
from vlibrary.schemas.examples import NAMED_EXAMPLE, VECTOR_ID, examples
from vlibrary.schemas.fields import StrictIn
from vlibrary.schemas.problems import ProblemOut
from vlibrary.schemas.vectors import NamedOut, identify

_TIME = "2026-11-22T12:00:00Z"
_RELATIVE = NAMED_EXAMPLE | {"state": "active"}
_ALIAS = {"name": "colour", "alias": "production", "id": VECTOR_ID, "revision": 7, "changed_at": _TIME}


class AmendIn(StrictIn):
    """Changes to a vector. Omitted fields are kept; `tags` and `metadata` are replaced as a whole."""

    model_config = examples(
        {
            "description": "Which colour a drawn shape has",
            "tags": ["checked", "colour"],
            "metadata": {"shots": 16, "split": "train", "checked": True},
        }
    )

    description: str | None = Field(default=None, max_length=MAX_DESCRIPTION)
    tags: list[str] | None = Field(default=None, max_length=MAX_TAGS)
    metadata: dict[str, MetadataValue] | None = Field(default=None, max_length=MAX_METADATA)

    def changes(self) -> Amendment:
        """Return the changes for the library."""
        return Amendment(self.description, None if self.tags is None else tuple(self.tags), self.metadata)


class AliasIn(StrictIn):
    """The target of an alias."""

    model_config = examples({"vector": "colour:1"})

    vector: str = Field(
        max_length=MAX_REFERENCE, description="Id, name (its newest version), name:version or name@alias"
    )


class AliasOut(BaseModel):
    """An alias: a movable pointer `name@alias` to one vector of that name."""

    model_config = examples(_ALIAS)

    name: str
    alias: str
    id: str = Field(description="Id of the vector the alias points to")
    revision: int = Field(description='The ETag is "v<revision>"')
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
    """Aliases, ordered by name and alias."""

    model_config = examples({"items": [_ALIAS]})

    items: list[AliasOut]


class RelativeOut(NamedOut):
    """A parent or child of a vector."""

    state: Status

    @classmethod
    def of(cls, record: VectorRecord) -> RelativeOut:
        return cls(**identify(record), state=record.status)


class LineageOut(BaseModel):
    """The parents and children of a vector, deleted ones included."""

    model_config = examples({"id": VECTOR_ID, "parents": [_RELATIVE], "missing": [], "children": [], "more": False})

    id: str
    parents: list[RelativeOut] = Field(description="Vectors that this vector was derived from")
    missing: list[str] = Field(description="Ids of parents that are not in this library")
    children: list[RelativeOut] = Field(description="Vectors derived from this vector, newest first, at most 100")
    more: bool = Field(description="Whether there are more children; list them with GET /vectors?derived_from=")

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
    """An entry of the audit log."""

    seq: int
    at: datetime
    actor: str
    action: str
    subject: str = Field(description="Vector id, name@alias, or another part of the library")
    detail: dict[str, Any]

    @classmethod
    def of(cls, entry: AuditEntry) -> AuditEntryOut:
        return cls.model_validate(entry, from_attributes=True)


class AuditOut(BaseModel):
    """A page of the audit log, oldest entries first."""

    model_config = examples(
        {
            "items": [
                {
                    "seq": 1,
                    "at": _TIME,
                    "actor": "anonymous",
                    "action": "vector.publish",
                    "subject": VECTOR_ID,
                    "detail": {"name": "colour-codes", "version": 1},
                }
            ],
            "next": None,
        }
    )

    items: list[AuditEntryOut]
    next: int | None = Field(
        description="Pass as `after` to get the next page; null at the end of the log. Even a short page can have one"
    )

    @classmethod
    def of(cls, page: AuditPage) -> AuditOut:
        return cls(items=list(map(AuditEntryOut.of, page.entries)), next=page.next)


class ImportedOut(BaseModel):
    """The result of importing one vector."""

    id: str = Field(description="Id of the vector; imports keep ids")
    name: str
    version: int | None = Field(description="Version in this library; null if the vector was refused")
    state: Status | None
    outcome: Outcome = Field(
        description="`imported`: the vector was registered. `present`: the library already had it. "
        "`differs`: it already had it with another description, tags or metadata, which it keeps. "
        "`updated`: as `differs`, but it took those of the archive. `refused`: see `problem`"
    )
    problem: ProblemOut | None = Field(description="Why the vector was refused")

    @classmethod
    def of(cls, loaded: Loaded, problem: ProblemOut | None) -> ImportedOut:
        """Return the result for one vector. problem: why it was refused."""
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
    """The results of an import, one per vector."""

    model_config = examples(
        {
            "items": [
                {
                    "id": VECTOR_ID,
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
