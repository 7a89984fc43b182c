"""Filters over vectors, the same for query parameters and JSON bodies.

A metadata condition is KEY=VALUE, KEY>=VALUE or KEY<=VALUE. KEY=VALUE matches the text VALUE, and the number or boolean
if VALUE is one in JSON: shots=16 matches 16 and "16". VALUE in quotation marks matches the text only, and a JSON list
such as ["train",16] matches each of its values, types included. A range compares numbers if VALUE is one, else texts.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field

from vlibrary.domain.card import NAME_PATTERN, Status
from vlibrary.domain.errors import InvalidInput
from vlibrary.domain.filters import Between, Condition, Filter, OneOf
from vlibrary.domain.labels import MAX_TAG_CODE_POINTS, VECTOR_ID_PATTERN, check_tags, is_metadata_value, is_storable
from vlibrary.formats import strict_json
from vlibrary.schemas.fields import StrictIn

MAX_CONDITIONS = 16
# The query parameters that may occur more than once.
REPEATABLE = frozenset({"tag", "metadata"})
_CONDITION = re.compile(r"([A-Za-z0-9_.-]+)(>=|<=|=)(.*)", re.DOTALL)
_STATES: dict[str, Status | None] = {"active": Status.ACTIVE, "deleted": Status.DELETED, "any": None}


def _read_time(value: str) -> str:
    """Return the time with the "+" of its offset, which a URL turns into a space.

    Rejects numbers, which pydantic would read as seconds or milliseconds. Raises ValueError.
    """
    if not re.match(r"\d{4}-\d\d-\d\dT", value):
        raise ValueError("use the format 2026-11-22T12:00:00Z")
    return re.sub(r" (?=\d\d:?\d\d$)", "+", value)


Tag = Annotated[str, Field(min_length=1, max_length=MAX_TAG_CODE_POINTS)]
# The pattern is documented only: parse_condition has a better message.
ConditionText = Annotated[
    str,
    Field(max_length=1_000, json_schema_extra={"pattern": r"^[A-Za-z][A-Za-z0-9_.-]{0,63}(=|>=|<=)[^\u0000]{0,500}$"}),
]
Name = Annotated[str | None, Field(pattern=NAME_PATTERN, description="Only versions of this name")]
Method = Annotated[str | None, Field(max_length=128, description="Only vectors trained with this method")]
Tags = Annotated[list[Tag], Field(max_length=MAX_CONDITIONS, description="Only vectors with all of these tags")]
Conditions = Annotated[
    list[ConditionText],
    Field(
        max_length=MAX_CONDITIONS,
        description='Only vectors whose metadata match all conditions: shots=16, shots>=8, split=["train","test"]',
    ),
]
Parent = Annotated[str | None, Field(pattern=VECTOR_ID_PATTERN, description="Only vectors derived from this id")]
Time = Annotated[AwareDatetime, BeforeValidator(_read_time)]
State = Literal["active", "deleted", "any"]


class FilterIn(StrictIn):
    """Which vectors to search; omitted fields do not restrict the search."""

    name: Name = None
    method: Method = None
    tags: Tags = Field(default_factory=list)
    metadata: Conditions = Field(default_factory=list)
    derived_from: Parent = None

    def filter(self) -> Filter | None:
        """Return the filter, or None if no field is set. Raises InvalidInput."""
        if not self.model_dump(exclude_defaults=True):
            return None
        return _filter(self.name, None, self.method, self.tags, self.metadata, self.derived_from)


class FilterQuery(BaseModel):
    """The filter of a list route, as query parameters."""

    model_config = ConfigDict(extra="forbid")

    name: Name = None
    model: str | None = Field(
        default=None,
        max_length=512,
        description="Only vectors for this base model; of a served model, under whatever name they were trained",
    )
    method: Method = None
    tag: Tags = Field(default_factory=list)
    metadata: Conditions = Field(default_factory=list)
    derived_from: Parent = None
    created_from: Time | None = Field(default=None, description="Created at or after this time")
    created_before: Time | None = Field(default=None, description="Created before this time")
    state: State = Field(default="active", description="Deleted vectors can be listed, but not found or applied")

    def filter(self) -> Filter:
        """Return the filter. Raises InvalidInput."""
        return _filter(
            self.name,
            self.model,
            self.method,
            self.tag,
            self.metadata,
            self.derived_from,
            created_from=_utc(self.created_from),
            created_before=_utc(self.created_before),
            status=_STATES[self.state],
        )


def _filter(
    name: str | None,
    model: str | None,
    method: str | None,
    tags: list[str],
    metadata: list[str],
    parent: str | None,
    **more: Any,
) -> Filter:
    for text in (model, method):
        if text is not None and not is_storable(text):
            raise InvalidInput(f"{text!r:.80} contains NUL or an unpaired surrogate.", "Use plain Unicode text.")
    conditions = tuple(map(parse_condition, metadata))
    return Filter(
        name=name,
        model_id=model,
        method=method,
        tags=check_tags(tuple(tags)),
        conditions=conditions,
        parent=parent,
        **more,
    )


def parse_condition(text: str) -> Condition:
    """Return the condition; the module's docstring defines the syntax. Raises InvalidInput."""
    found = _CONDITION.fullmatch(text)
    if found is None:
        raise InvalidInput(
            f"Invalid metadata condition {text!r:.80}.", "Use KEY=VALUE, KEY>=VALUE or KEY<=VALUE, such as shots>=8."
        )
    key, relation, value = found[1], found[2], _value(found[3])
    match relation, value:
        case ">=", _:
            return Between(key, least=value)
        case "<=", _:
            return Between(key, most=value)
        case _, list():
            return OneOf(key, tuple(value))
        case _, str():
            return OneOf(key, (value,))
        case _:
            return OneOf(key, (found[3], value) if is_metadata_value(value) else (found[3],))


def _value(text: str) -> Any:
    """Return the JSON value, or the text itself if it is not JSON or not a value that metadata can have."""
    try:
        value = strict_json.parse(text)
    except ValueError:
        return text
    return text if value is None or isinstance(value, dict) else value


def _utc(time: datetime | None) -> datetime | None:
    try:
        return None if time is None else time.astimezone(UTC)
    except OverflowError:  # year 1 or 9999, with an offset that leaves the range
        raise InvalidInput(f"{time} is out of range in UTC.", "Use a time between the years 2 and 9998.") from None
