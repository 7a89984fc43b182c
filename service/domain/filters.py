"""Which vectors are meant: one value that the catalogue understands, and its meaning in plain Python."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from vlibrary.domain.card import Status, VectorRecord
from vlibrary.domain.errors import InvalidInput
from vlibrary.domain.labels import MetadataValue, is_metadata_key, is_metadata_value


class ValueKind(StrEnum):
    """Kinds of metadata, which are never equal to each other: 1 is neither "1" nor true. 1 and 1.0 are one number."""

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
    """The metadata has this key, with one of these values (no value: nothing passes). Raises InvalidInput."""

    key: str
    values: tuple[MetadataValue, ...]

    def __post_init__(self) -> None:
        _check(self.key, self.values)

    def allows(self, value: MetadataValue) -> bool:
        return any(ValueKind.of(value) == ValueKind.of(one) and value == one for one in self.values)


@dataclass(frozen=True)
class Between:
    """The metadata has this key, with a value of the bounds' kind, least <= value <= most; texts go by code point.

    At least one bound is given. Raises InvalidInput for bounds of two kinds, none, or flags.
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
                f"The range of {self.key!r} goes from {self.least!r} to {self.most!r}.",
                "Give one or two bounds, both numbers or both texts.",
            )

    @property
    def kind(self) -> ValueKind:
        """What the bounds are, and so what the value must be."""
        return next(ValueKind.of(bound) for bound in (self.least, self.most) if bound is not None)

    def allows(self, value: MetadataValue) -> bool:
        if ValueKind.of(value) != self.kind:
            return False
        bounds = ((self.least, value), (value, self.most))
        return all(low is None or high is None or low <= high for low, high in bounds)  # type: ignore[operator]  # one kind


def _check(key: str, values: Iterable[MetadataValue]) -> None:
    """Raises InvalidInput for what metadata can never hold."""
    wrong = [value for value in values if not is_metadata_value(value)]
    if wrong or not is_metadata_key(key):
        raise InvalidInput(
            f"No metadata can have {wrong[0]!r:.80} under {key!r:.80}." if wrong else f"No metadata has {key!r:.80}.",
            "Ask for keys of letters, digits, dot, dash and underscore, and for texts, finite numbers, true or false.",
        )


Condition = OneOf | Between


@dataclass(frozen=True)
class Filter:
    """All of these hold; what is left out (None, empty) asks nothing.

    tags: the vector has every one of them. created_from <= created_at < created_before. parent: a vector id that the
    vector is derived from. status: None takes deleted ones too.
    """

    name: str | None = None
    version: int | None = None
    model_id: str | None = None
    method: str | None = None
    tags: tuple[str, ...] = ()
    conditions: tuple[Condition, ...] = ()
    created_from: datetime | None = None
    created_before: datetime | None = None
    parent: str | None = None
    status: Status | None = Status.ACTIVE

    def allows(self, record: VectorRecord) -> bool:
        """Whether the record passes."""
        return self._fields_allow(record) and self._time_allows(record) and self._labels_allow(record)

    def _fields_allow(self, record: VectorRecord) -> bool:
        asked = (self.name, self.version, self.model_id, self.method, self.status)
        found = (record.name, record.version, record.model.model_id, record.method, record.status)
        return all(wanted is None or wanted == value for wanted, value in zip(asked, found, strict=True))

    def _time_allows(self, record: VectorRecord) -> bool:
        late_enough = self.created_from is None or self.created_from <= record.created_at
        return late_enough and (self.created_before is None or record.created_at < self.created_before)

    def _labels_allow(self, record: VectorRecord) -> bool:
        return (
            set(self.tags) <= set(record.tags)
            and (self.parent is None or self.parent in record.derived_from)
            and all(
                condition.key in record.metadata and condition.allows(record.metadata[condition.key])
                for condition in self.conditions
            )
        )


EVERYTHING_ACTIVE = Filter()
