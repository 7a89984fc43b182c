"""A domain filter as SQL: the same records pass as Filter.allows lets pass."""

from __future__ import annotations

from collections.abc import Iterator

from sqlalchemy import ColumnElement, and_, false, or_, select
from sqlalchemy.orm import InstrumentedAttribute

from vlibrary.adapters.sql.mapping import PARENT, TAG
from vlibrary.adapters.sql.tables import FacetRow, VectorRow
from vlibrary.domain.filters import Between, Condition, Filter, OneOf, ValueKind
from vlibrary.domain.labels import MetadataValue, is_storable

Clause = ColumnElement[bool]


def clauses(which: Filter) -> list[Clause]:
    """What must all hold of a vector's row."""
    texts = (which.name, which.model_id, which.method, which.parent, *which.tags)
    if not is_storable(texts):
        return [false()]
    return [*_fields(which), *_labels(which)]


def _fields(which: Filter) -> Iterator[Clause]:
    asked = {
        VectorRow.name: which.name,
        VectorRow.version: which.version,
        VectorRow.model_id: which.model_id,
        VectorRow.method: which.method,
        VectorRow.status: which.status,
    }
    yield from (column == wanted for column, wanted in asked.items() if wanted is not None)
    if which.created_from is not None:
        yield VectorRow.created_at >= which.created_from
    if which.created_before is not None:
        yield VectorRow.created_at < which.created_before


def _labels(which: Filter) -> Iterator[Clause]:
    yield from (_has(TAG, tag) for tag in which.tags)
    if which.parent is not None:
        yield _has(PARENT, which.parent)
    yield from (_holds(condition) for condition in which.conditions)


def _has(kind: str, key: str, *more: Clause) -> Clause:
    return VectorRow.id.in_(select(FacetRow.vector_id).where(FacetRow.kind == kind, FacetRow.key == key, *more))


def _holds(condition: Condition) -> Clause:
    match condition:
        case OneOf():
            return _one_of(condition)
        case Between():
            return _between(condition)


def _one_of(condition: OneOf) -> Clause:
    by_kind: dict[ValueKind, list[str | float]] = {}
    for value in condition.values:
        by_kind.setdefault(ValueKind.of(value), []).append(_comparable(value))
    return or_(false(), *(_has(kind, condition.key, _column(kind).in_(values)) for kind, values in by_kind.items()))


def _between(condition: Between) -> Clause:
    column = _column(condition.kind)
    least = [] if condition.least is None else [column >= _comparable(condition.least)]
    most = [] if condition.most is None else [column <= _comparable(condition.most)]
    return _has(condition.kind, condition.key, and_(*least, *most))


def _column(kind: ValueKind) -> InstrumentedAttribute[str | None] | InstrumentedAttribute[float | None]:
    return FacetRow.text if kind is ValueKind.TEXT else FacetRow.number


def _comparable(value: MetadataValue) -> str | float:
    return value if isinstance(value, str) else float(value)
