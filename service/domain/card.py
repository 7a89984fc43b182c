"""What the catalogue knows of a vector: the card its maker wrote, and the record the library keeps."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

import numpy as np

from vlibrary.domain.errors import InvalidCard
from vlibrary.domain.labels import MetadataValue, check_metadata, check_parents, check_tags, is_storable
from vlibrary.domain.query import EmbedderSpec, Modality, TaskEmbedding
from vlibrary.domain.vector import Array, ModelSpec, Positions

NAME_PATTERN = r"^[a-z0-9][a-z0-9._-]{0,127}$"
MAX_KEYS = 64
MAX_DESCRIPTION = 2_000


class KeyKind(StrEnum):
    """What a task key stands for: all training queries, one cluster of them, or the card's description."""

    CENTROID = "centroid"
    SUBCENTROID = "subcentroid"
    DESCRIPTION = "description"


@dataclass(frozen=True, eq=False)
class TaskKey:
    """One point in the embedder's space at which a vector can be found."""

    kind: KeyKind
    embedding: TaskEmbedding


@dataclass(frozen=True)
class VectorCard:
    """What the maker of a vector says of it.

    embedder: fingerprint of the embedder that made the keys (None when the card brings no keys).
    thresholds: least score per modality at which the vector is a match, calibrated on held-back training queries.
    results: measured figures, such as {"zero_shot": 0.03, "steered": 0.97}; JSON values only.
    tags: free labels, sorted, each once. metadata: typed facts to filter by. derived_from: ids of the vectors that this
    one was made from.
    """

    name: str
    description: str = ""
    embedder: str | None = None
    keys: tuple[TaskKey, ...] = ()
    thresholds: Mapping[Modality, float] = field(default_factory=dict)
    results: Mapping[str, Any] = field(default_factory=dict)
    tags: tuple[str, ...] = ()
    metadata: Mapping[str, MetadataValue] = field(default_factory=dict)
    derived_from: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not re.fullmatch(NAME_PATTERN, self.name):
            raise InvalidCard(
                f"The name {self.name!r} is not allowed.",
                "Use 1 to 128 of a-z, 0-9, dot, dash and underscore, starting with a letter or digit.",
            )
        check_description(self.description)
        object.__setattr__(self, "tags", check_tags(self.tags))
        check_metadata(self.metadata)
        check_parents(self.derived_from)
        if len(self.keys) > MAX_KEYS:
            raise InvalidCard(f"The card has {len(self.keys)} keys.", f"Keep at most {MAX_KEYS} of them.")
        for modality, least in self.thresholds.items():
            if not -1.0 <= least <= 1.0:
                raise InvalidCard(f"The threshold for {modality} is {least}.", "Scores lie between -1 and 1.")

    def check_keys(self, spec: EmbedderSpec) -> None:
        """Raises InvalidCard unless every key is a finite unit vector of this embedder's."""
        if self.keys and self.embedder != spec.fingerprint:
            raise InvalidCard(
                f"The keys were made by embedder {self.embedder!r}; this service uses {spec.fingerprint!r}.",
                "Compute the keys again with this service's embedder, or leave them out: "
                "the description then serves as the key.",
            )
        for number, key in enumerate(self.keys):
            _check_part(key.embedding.image, spec.image_size, f"keys[{number}].image")
            _check_part(key.embedding.text, spec.text_size, f"keys[{number}].text")
            if key.embedding.parts == 0:
                raise InvalidCard(f"keys[{number}] is empty.", "Give it an image or a text part.")


def check_description(description: str) -> None:
    """Raises InvalidCard for one that is too long, or that not every store can keep."""
    if not is_storable(description):
        raise InvalidCard("The description holds a NUL or half a surrogate pair.", "Write plain Unicode text.")
    if len(description) > MAX_DESCRIPTION:
        raise InvalidCard(f"The description has {len(description)} characters.", f"Shorten it to {MAX_DESCRIPTION}.")


def _check_part(part: Array | None, size: int, where: str) -> None:
    if part is None:
        return
    if part.shape != (size,):
        raise InvalidCard(f"{where} has shape {list(part.shape)}.", f"This embedder's part has shape [{size}].")
    if not np.isfinite(part).all() or abs(float(np.linalg.norm(part)) - 1.0) > 1e-3:
        raise InvalidCard(f"{where} is not a finite vector of length 1.", "Normalise each part.")


class Status(StrEnum):
    """Life of a vector: active, deleted (hidden, can be restored), and gone from the catalogue when it is purged."""

    ACTIVE = "active"
    DELETED = "deleted"


@dataclass(frozen=True)
class VectorRecord:
    """A registered vector as the catalogue holds it, with its card as it is now.

    Only status, deleted_at, revision and the card's description (with its key), tags and metadata ever change.

    id: ULID. version: 1, 2, 3 ... among the vectors of one name, never given twice. sha256, size: of the artifact's
    bytes. object_key: where the artifact lies in the store. seq: position in the change log of its registration.
    revision: 1, 2, 3 ..., one more with every change of the record. deleted_at: None while it is active.
    """

    id: str
    version: int
    card: VectorCard
    model: ModelSpec
    method: str
    positions: Positions
    training: Mapping[str, Any]
    sha256: str
    size: int
    object_key: str
    created_at: datetime
    seq: int
    status: Status = Status.ACTIVE
    revision: int = 1
    deleted_at: datetime | None = None

    @property
    def name(self) -> str:
        return self.card.name

    @property
    def tags(self) -> tuple[str, ...]:
        return self.card.tags

    @property
    def metadata(self) -> Mapping[str, MetadataValue]:
        return self.card.metadata

    @property
    def derived_from(self) -> tuple[str, ...]:
        return self.card.derived_from
