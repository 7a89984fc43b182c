"""Which vectors a request means, in one language for queries and bodies.

metadata: KEY=VALUE, KEY>=VALUE or KEY<=VALUE. VALUE is JSON where it can be, else a text: shots=16 is a number,
shots="16" a text, split=train a text, checked=true a flag, split=["train","test"] any of the two.
"""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, BeforeValidator, Field

from vlibrary.domain.card import NAME_PATTERN, Status
from vlibrary.domain.errors import InvalidInput
from vlibrary.domain.filters import Between, Condition, Filter, OneOf
from vlibrary.domain.labels import MAX_TAG, VECTOR_ID_PATTERN, check_tags, is_storable
from vlibrary.schemas.fields import StrictIn

MAX_CONDITIONS = 16
_CONDITION = re.compile(r"([A-Za-z0-9_.-]+)(>=|<=|=)(.*)", re.DOTALL)
_STATES: dict[str, Status | None] = {"active": Status.ACTIVE, "deleted": Status.DELETED, "any": None}

Tag = Annotated[str, Field(min_length=1, max_length=MAX_TAG)]
ConditionText = Annotated[str, Field(max_length=1_000)]
Name = Annotated[str | None, Field(pattern=NAME_PATTERN, description="Only versions of this name")]
Method = Annotated[str | None, Field(max_length=128, description="Only vectors made by this method")]
Tags = Annotated[list[Tag], Field(max_length=MAX_CONDITIONS, description="Only vectors with all of these tags")]
Conditions = Annotated[
    list[ConditionText],
    Field(
        max_length=MAX_CONDITIONS,
        description='Only vectors whose metadata fit: shots=16, shots>=8, split=train, split=["train","test"]',
    ),
]
Parent = Annotated[
    str | None, Field(pattern=VECTOR_ID_PATTERN, description="Only vectors derived from the one with this id")
]


def _written_out(value: str) -> str:
    """pydantic would take a number for seconds or milliseconds, as it sees fit."""
    if not re.match(r"\d{4}-\d\d-\d\dT", value):
        raise ValueError("write it as 2026-11-22T12:00:00Z")
    return value


Moment = Annotated[AwareDatetime, BeforeValidator(_written_out)]
State = Literal["active", "deleted", "any"]


class FilterIn(StrictIn):
    """Which vectors may be found; what is left out asks nothing."""

    name: Name = None
    method: Method = None
    tags: Tags = Field(default_factory=list)
    metadata: Conditions = Field(default_factory=list)
    derived_from: Parent = None

    def filter(self) -> Filter | None:
        """As the library takes it; None when nothing is asked."""
        asked = self.model_dump(exclude_defaults=True)
        return filter_of(**asked) if asked else None


def filter_of(
    *,
    name: str | None = None,
    model: str | None = None,
    method: str | None = None,
    tags: list[str] | None = None,
    metadata: list[str] | None = None,
    derived_from: str | None = None,
    created_from: datetime | None = None,
    created_before: datetime | None = None,
    state: State = "active",
) -> Filter:
    """The filter in the library's words. Raises InvalidInput for what no vector could have."""
    for text in (model, method):
        if text is not None and not is_storable(text):
            raise InvalidInput(f"{text!r:.80} holds a NUL or half a surrogate pair.", "Write plain Unicode text.")
    return Filter(
        name=name,
        model_id=model,
        method=method,
        tags=check_tags(tuple(tags or ())),
        conditions=tuple(map(condition_of, metadata or ())),
        created_from=_utc(created_from),
        created_before=_utc(created_before),
        parent=derived_from,
        status=_STATES[state],
    )


def condition_of(text: str) -> Condition:
    """The condition that the text states; see the module's text. Raises InvalidInput."""
    found = _CONDITION.fullmatch(text)
    if found is None:
        raise InvalidInput(
            f"The condition {text!r:.80} cannot be read.", "Write KEY=VALUE, KEY>=VALUE or KEY<=VALUE: shots>=8."
        )
    key, relation, value = found[1], found[2], _value(found[3])
    match relation:
        case ">=":
            return Between(key, least=value)
        case "<=":
            return Between(key, most=value)
        case _:
            return OneOf(key, tuple(value) if isinstance(value, list) else (value,))


def _value(text: str) -> Any:
    """JSON, unless it is none, or what metadata cannot be compared to."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return text if value is None or isinstance(value, dict) else value


def _utc(moment: datetime | None) -> datetime | None:
    try:
        return None if moment is None else moment.astimezone(UTC)
    except OverflowError:  # the year 1 or 9999, and a time zone that leads out of them
        raise InvalidInput(f"{moment} is no time in UTC.", "Give a time in between.") from None
