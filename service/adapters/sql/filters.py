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
    texts = (which.name, which.model_id, which.fingerprint, which.method, which.parent, *which.tags)
    if not is_storable(texts):
        return [false()]
    return list(_iter_clauses(which))


def _iter_clauses(which: Filter) -> Iterator[Clause]:
    wanted = {
        VECTORS.c.name: which.name,
        VECTORS.c.version: which.version,
        VECTORS.c.model_id: which.model_id,
        VECTORS.c.model_fingerprint: which.fingerprint,
        VECTORS.c.method: which.method,
        VECTORS.c.status: which.status,
    }
    yield from (column == value for column, value in wanted.items() if value is not None)
    if which.created_from is not None:
        yield VECTORS.c.created_at >= which.created_from
    if which.created_before is not None:
        yield VECTORS.c.created_at < which.created_before
    yield from (_has(TAG, tag) for tag in which.tags)
    if which.parent is not None:
        yield _has(PARENT, which.parent)
    yield from map(_matches, which.conditions)


def _has(kind: str, key: str, *more: Clause) -> Clause:
    return VECTORS.c.id.in_(select(FACETS.c.vector_id).where(FACETS.c.kind == kind, FACETS.c.key == key, *more))


def _matches(condition: Condition) -> Clause:
    match condition:
        case OneOf(key, values):
            by_kind: dict[ValueKind, list[str | float]] = {}
            for value in values:
                by_kind.setdefault(ValueKind.of(value), []).append(_comparable(value))
            return or_(false(), *(_has(kind, key, _column(kind).in_(same)) for kind, same in by_kind.items()))
        case Between(key, least, most):
            column = _column(condition.kind)
            at_least = [] if least is None else [column >= _comparable(least)]
            at_most = [] if most is None else [column <= _comparable(most)]
            return _has(condition.kind, key, and_(*at_least, *at_most))


def _column(kind: ValueKind) -> Column[Any]:
    return FACETS.c.text if kind is ValueKind.TEXT else FACETS.c.number


def _comparable(value: MetadataValue) -> str | float:
    return value if isinstance(value, str) else float(value)
