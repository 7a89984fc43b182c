"""Values that the catalogue's ports exchange: uploads, amendments, pages, aliases and audit entries."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from vlibrary.domain.card import VectorCard, VectorRecord, check_description
from vlibrary.domain.labels import MetadataValue, check_metadata, check_tags

ANONYMOUS = "anonymous"
# The actor of changes that the service makes by itself, such as a new epoch after a restore.
SYSTEM = "system"


@dataclass(frozen=True)
class Upload:
    """A registration in progress: reserved before any byte is stored, void after its deadline.

    An upload whose reservation is gone (released, or expired and replaced) can never be published, so an object with
    neither record nor reservation can be deleted.

    idempotency_key: the client's, or the vector id if the client sent none.
    request_sha256: digest of the whole request; it distinguishes a repeated request from a reused key.
    """

    vector_id: str
    object_key: str
    idempotency_key: str
    request_sha256: str
    deadline: datetime


@dataclass(frozen=True)
class Page:
    """A page of records, newest first. next: cursor of the following page, None on the last."""

    records: tuple[VectorRecord, ...]
    next: str | None


@dataclass(frozen=True)
class Amendment:
    """New values for fields of a vector's card; None keeps a field. tags and metadata are replaced as a whole.

    found_by: a card whose embedder, keys (that of the description included), calibration and thresholds replace those
    of the vector. Raises InvalidCard.
    """

    description: str | None = None
    tags: tuple[str, ...] | None = None
    metadata: Mapping[str, MetadataValue] | None = None
    found_by: VectorCard | None = None

    def __post_init__(self) -> None:
        if self.description is not None:
            check_description(self.description)
        if self.tags is not None:
            object.__setattr__(self, "tags", check_tags(self.tags))
        if self.metadata is not None:
            check_metadata(self.metadata)


@dataclass(frozen=True)
class Alias:
    """A movable pointer from a name to one of its vectors. revision: unique for every time the alias is set."""

    name: str
    alias: str
    vector_id: str
    revision: int
    changed_at: datetime


@dataclass(frozen=True)
class AuditEntry:
    """Who did what to what. action: vector.publish, alias.set, ...; detail: JSON values only. seq has no gaps."""

    seq: int
    at: datetime
    actor: str
    action: str
    subject: str
    detail: Mapping[str, Any] = field(default_factory=dict)
