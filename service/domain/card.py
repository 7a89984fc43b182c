"""The description of a vector: its card, written by the author, and the catalogue's record of it."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, TypeGuard

import numpy as np

from vlibrary.domain.errors import InvalidCard
from vlibrary.domain.labels import MetadataValue, check_metadata, check_parents, check_tags, is_storable
from vlibrary.domain.matching.calibration import Calibration
from vlibrary.domain.query import EmbedderSpec, Modality, TaskEmbedding
from vlibrary.domain.vector import Array, ModelSpec, Positions

NAME_PATTERN = r"^[a-z0-9][a-z0-9._-]{0,127}$"
MAX_KEYS = 64
MAX_DESCRIPTION = 2_000


class KeyKind(StrEnum):
    """What a task key embeds.

    A training query; the mean of all of them, or of one cluster, on cards from before 0.2.0; the card's description.
    """

    EXEMPLAR = "exemplar"
    CENTROID = "centroid"
    SUBCENTROID = "subcentroid"
    DESCRIPTION = "description"


@dataclass(frozen=True, eq=False)
class TaskKey:
    """An embedding by which a vector can be found."""

    kind: KeyKind
    embedding: TaskEmbedding


@dataclass(frozen=True)
class VectorCard:
    """The author's description of a vector. Raises InvalidCard.

    embedder: fingerprint of the embedder of the keys; None without keys.
    calibration: per part, the scale that makes cosines with the keys a probability. Empty on cards from before 0.2.0.
    thresholds: per modality, the score from which the vector matches, if the card has no calibration.
    results: evaluation results, such as {"zero_shot": 0.03, "steered": 0.97}; JSON values only.
    tags: labels, sorted and unique. metadata: typed values to filter by. derived_from: ids of the parent vectors.
    """

    name: str
    description: str = ""
    embedder: str | None = None
    keys: tuple[TaskKey, ...] = ()
    calibration: Calibration = field(default_factory=dict)
    thresholds: Mapping[Modality, float] = field(default_factory=dict)
    results: Mapping[str, Any] = field(default_factory=dict)
    tags: tuple[str, ...] = ()
    metadata: Mapping[str, MetadataValue] = field(default_factory=dict)
    derived_from: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not re.fullmatch(NAME_PATTERN, self.name):
            raise InvalidCard(
                f"Invalid name {self.name!r}.",
                "Use 1 to 128 of a-z, 0-9, dot, dash and underscore, starting with a letter or digit.",
            )
        check_description(self.description)
        object.__setattr__(self, "tags", check_tags(self.tags))
        check_metadata(self.metadata)
        check_parents(self.derived_from)
        if len(self.keys) > MAX_KEYS:
            raise InvalidCard(f"The card has {len(self.keys)} keys.", f"Use at most {MAX_KEYS}.")
        if Modality.IMAGE_TEXT in self.calibration:
            raise InvalidCard("The calibration has the part 'image_text'.", "Calibrate 'image' and 'text'.")
        self._check_calibration()
        for modality, threshold in self.thresholds.items():
            if not -1.0 <= threshold <= 1.0:
                raise InvalidCard(f"The threshold for {modality} is {threshold}.", "Use a number from -1 to 1.")

    def _check_calibration(self) -> None:
        """Raise InvalidCard if a part of the keys has no scale, so that it would have no influence."""
        keys = [key.embedding for key in self.keys if key.kind is not KeyKind.DESCRIPTION]
        parts = {Modality.IMAGE: any(key.image is not None for key in keys)}
        parts[Modality.TEXT] = any(key.text is not None for key in keys)
        missing = [part for part, there in parts.items() if there and part not in self.calibration]
        if self.calibration and missing:
            raise InvalidCard(
                f"The calibration lacks {missing[0].value!r}, which the keys have.",
                "Add its scale, or omit the calibration.",
            )

    def check_keys(self, spec: EmbedderSpec) -> None:
        """Raise InvalidCard unless every key is a finite unit vector of this embedder."""
        if self.keys and self.embedder != spec.fingerprint:
            raise InvalidCard(
                f"The keys are of embedder {self.embedder!r}; this service uses {spec.fingerprint!r}.",
                "Compute the keys with this service's embedder, or omit them to use the description as the key.",
            )
        for number, key in enumerate(self.keys):
            _check_part(key.embedding.image, spec.image_size, f"keys[{number}].image")
            _check_part(key.embedding.text, spec.text_size, f"keys[{number}].text")
            if key.embedding.parts == 0:
                raise InvalidCard(f"keys[{number}] is empty.", "Add an image or a text part.")


def has_lift(results: Mapping[str, Any]) -> bool | None:
    """Return whether a card's results show that the vector helps: steered accuracy above zero-shot accuracy.

    None if the results do not contain both as numbers.
    """
    zero_shot, steered = results.get("zero_shot"), results.get("steered")
    return steered > zero_shot if _is_number(zero_shot) and _is_number(steered) else None


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and not math.isnan(value)


def check_description(description: str) -> None:
    """Raise InvalidCard for a description that is too long, or that some databases cannot store."""
    if not is_storable(description):
        raise InvalidCard("The description contains a NUL or half a surrogate pair.", "Use valid Unicode text.")
    if len(description) > MAX_DESCRIPTION:
        raise InvalidCard(f"The description has {len(description)} characters.", f"Use at most {MAX_DESCRIPTION}.")


def _check_part(part: Array | None, size: int, where: str) -> None:
    if part is None:
        return
    if part.shape != (size,):
        raise InvalidCard(f"{where} has shape {list(part.shape)}.", f"Use an embedding of shape [{size}].")
    if not np.isfinite(part).all() or abs(float(np.linalg.norm(part)) - 1.0) > 1e-3:
        raise InvalidCard(f"{where} is not a finite unit vector.", "Normalise each part to length 1.")


class Status(StrEnum):
    """State of a registered vector. A deleted one is hidden and can be restored; a purged one has no record."""

    ACTIVE = "active"
    DELETED = "deleted"


@dataclass(frozen=True)
class VectorRecord:
    """A registered vector in the catalogue, with its current card.

    Only status, deleted_at, revision and the card's description, keys, thresholds, tags and metadata can change.

    id: a ULID. version: 1, 2, 3 ... among the vectors of one name, never reused. sha256, size: of the artifact.
    object_key: of the artifact in the store. seq: the change-log sequence number of its registration.
    revision: starts at 1 and increases with every change. deleted_at: None while the vector is active.
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
