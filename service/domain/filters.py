"""Filters over the catalogue, with their reference meaning in plain Python."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from unicodedata import normalize

from vlibrary.domain.card import Status, VectorRecord
from vlibrary.domain.errors import InvalidInput
from vlibrary.domain.labels import MetadataValue, is_metadata_key, is_metadata_value


class ValueKind(StrEnum):
    """Kinds of metadata values, which are never equal to each other: 1 is neither "1" nor true, but it equals 1.0."""

    TEXT = "text"
    NUMBER = "number"
    FLAG = "flag"

    @classmethod
    def of(cls, value: MetadataValue) -> ValueKind:
        match value:
            case bool():
                return cls.FLAG
            case int() | float():
                return cls.NUMBER
            case _:
                return cls.TEXT


@dataclass(frozen=True)
class OneOf:
    """Match if the metadata has this key with one of these values (never, without values). Raises InvalidInput.

    Texts are equal if their normal forms NFC are.
    """

    key: str
    values: tuple[MetadataValue, ...]

    def __post_init__(self) -> None:
        _check(self.key, self.values)
        object.__setattr__(self, "values", tuple(map(comparable, self.values)))

    def allows(self, value: MetadataValue) -> bool:
        value = comparable(value)
        return any(ValueKind.of(value) == ValueKind.of(one) and value == one for one in self.values)


@dataclass(frozen=True)
class Between:
    """Match if the metadata has this key with a value of the bounds' kind, least <= value <= most.

    Texts are ordered by the code points of their normal forms NFC. Raises InvalidInput without a bound, for bounds of
    two kinds, and for flags.
    """

    key: str
    least: MetadataValue | None = None
    most: MetadataValue | None = None

    def __post_init__(self) -> None:
        bounds = [bound for bound in (self.least, self.most) if bound is not None]
        _check(self.key, bounds)
        kinds = set(map(ValueKind.of, bounds))
        if len(kinds) != 1 or ValueKind.FLAG in kinds:
            raise InvalidInput(
                f"Invalid range of {self.key!r}: from {self.least!r} to {self.most!r}.",
                "Use one or two bounds, both numbers or both texts.",
            )
        for name, bound in (("least", self.least), ("most", self.most)):
            object.__setattr__(self, name, None if bound is None else comparable(bound))

    @property
    def kind(self) -> ValueKind:
        """The kind of the bounds, which the value must have too."""
        return next(ValueKind.of(bound) for bound in (self.least, self.most) if bound is not None)

    def allows(self, value: MetadataValue) -> bool:
        if ValueKind.of(value) != self.kind:
            return False
        value = comparable(value)
        bounds = ((self.least, value), (value, self.most))
        return all(low is None or high is None or low <= high for low, high in bounds)  # type: ignore[operator]  # one kind


def comparable(value: MetadataValue) -> MetadataValue:
    """Return the value as conditions compare it: texts in normal form NFC, everything else unchanged."""
    return normalize("NFC", value) if isinstance(value, str) else value


def _check(key: str, values: Iterable[MetadataValue]) -> None:
    """Raise InvalidInput for a key or value that metadata cannot have."""
    wrong = [value for value in values if not is_metadata_value(value)]
    if wrong or not is_metadata_key(key):
        raise InvalidInput(
            f"Invalid metadata value {wrong[0]!r:.80} for {key!r:.80}."
            if wrong
            else f"Invalid metadata key {key!r:.80}.",
            "Keys have letters, digits, dots, dashes and underscores; values are texts, finite numbers, true or false.",
        )


Condition = OneOf | Between


@dataclass(frozen=True)
class Filter:
    """Match vectors that meet all conditions; None and empty values are no condition.

    model_id: the model's name in the artifact. fingerprint: of the model, which has it under every name. tags: the
    vector has all of them. created_from <= created_at < created_before. parent: id of a vector that the vector is
    derived from. status: None includes deleted vectors.
    """

    name: str | None = None
    version: int | None = None
    model_id: str | None = None
    fingerprint: str | None = None
    method: str | None = None
    tags: tuple[str, ...] = ()
    conditions: tuple[Condition, ...] = ()
    created_from: datetime | None = None
    created_before: datetime | None = None
    parent: str | None = None
    status: Status | None = Status.ACTIVE

    def allows(self, record: VectorRecord) -> bool:
        """Return whether the record matches."""
        model = record.model
        wanted = (self.name, self.version, self.model_id, self.fingerprint, self.method, self.status)
        values = (record.name, record.version, model.model_id, model.fingerprint, record.method, record.status)
        return (
            all(one is None or one == value for one, value in zip(wanted, values, strict=True))
            and (self.created_from is None or self.created_from <= record.created_at)
            and (self.created_before is None or record.created_at < self.created_before)
            and set(self.tags) <= set(record.tags)
            and (self.parent is None or self.parent in record.derived_from)
            and all(
                condition.key in record.metadata and condition.allows(record.metadata[condition.key])
                for condition in self.conditions
            )
        )


EVERYTHING_ACTIVE = Filter()
