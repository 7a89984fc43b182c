"""A domain filter as SQL, which selects exactly the records that Filter.allows accepts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sqlalchemy import Column, ColumnElement, and_, false, or_, select

from vlibrary.adapters.sql.mapping import PARENT, TAG
from vlibrary.adapters.sql.tables import FACETS, VECTORS
from vlibrary.domain.filters import Between, Condition, Filter, OneOf, ValueKind
from vlibrary.domain.labels import MetadataValue, is_storable

Clause = ColumnElement[bool]


def clauses(which: Filter) -> list[Clause]:
    """Return the clauses that a vector's row must all satisfy."""
    texts = (which.name, which.model_id, which.method, which.parent, *which.tags)
    if not is_storable(texts):
        return [false()]
    return [*_fields(which), *_labels(which)]


def _fields(which: Filter) -> Iterator[Clause]:
    wanted = {
        VECTORS.c.name: which.name,
        VECTORS.c.version: which.version,
        VECTORS.c.model_id: which.model_id,
        VECTORS.c.method: which.method,
        VECTORS.c.status: which.status,
    }
    yield from (column == value for column, value in wanted.items() if value is not None)
    if which.created_from is not None:
        yield VECTORS.c.created_at >= which.created_from
    if which.created_before is not None:
        yield VECTORS.c.created_at < which.created_before


def _labels(which: Filter) -> Iterator[Clause]:
    yield from (_has(TAG, tag) for tag in which.tags)
    if which.parent is not None:
        yield _has(PARENT, which.parent)
    yield from (_holds(condition) for condition in which.conditions)


def _has(kind: str, key: str, *more: Clause) -> Clause:
    return VECTORS.c.id.in_(select(FACETS.c.vector_id).where(FACETS.c.kind == kind, FACETS.c.key == key, *more))


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


def _column(kind: ValueKind) -> Column[Any]:
    return FACETS.c.text if kind is ValueKind.TEXT else FACETS.c.number


def _comparable(value: MetadataValue) -> str | float:
    return value if isinstance(value, str) else float(value)
