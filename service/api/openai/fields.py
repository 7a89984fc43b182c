"""Field types of the bodies under /v1: hints that change nothing, and options that the service does not have.

A field that would change the answer is honoured or refused by name. One that would not is accepted, and listed in the
answer's `vlibrary.ignored`.
"""

from __future__ import annotations

import json
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, WithJsonSchema
from pydantic_core import PydanticCustomError

from vlibrary.schemas.fields import MAX_TEXT, NOT_BLANK, StrictIn, image_bytes


class _Marker:
    """Marks a field that is accepted and ignored."""


IGNORED = _Marker()
# Values of hints that ask for what happens anyway.
_NEUTRAL_HINTS: tuple[Any, ...] = (None, False, "auto", "default", [], {})


class Only:
    """A validator that accepts these values, and null for none of them."""

    def __init__(self, *values: Any) -> None:
        self._values = values

    def __call__(self, value: Any) -> Any:
        # In Python, 1 == True.
        if value is None or any(
            one == value and isinstance(one, bool) == isinstance(value, bool) for one in self._values
        ):
            return value
        raise unsupported_error(f"not supported; omit the field or send {json.dumps(self._values[0])}")


def unsupported_error(message: str, *, parameter: bool = False) -> PydanticCustomError:
    """Return the error for a value that the service does not support. parameter: it supports no value of the field."""
    return PydanticCustomError(
        "unsupported_parameter" if parameter else "unsupported_value", "{message}", {"message": message}
    )


def wrong_type(expected: str) -> PydanticCustomError:
    """Return the error for a value of another type than a field has. expected: the types that it has."""
    return PydanticCustomError("wrong_type", "Input should be {expected}", {"expected": expected})


def _reject(value: Any) -> None:
    if value is not None:
        raise unsupported_error("not supported by this service; omit the field", parameter=True)


def _read_image_url(value: Any) -> Any:
    if not isinstance(value, str) or not value.lstrip()[:5].lower() == "data:":
        raise unsupported_error("the service does not fetch images; send a data URL: data:image/png;base64,...")
    return image_bytes(value)


def _reject_blank(text: str) -> str:
    if not text.strip():
        raise ValueError("the text is empty; send at least one character that is not a space")
    return text


def find_ignored(body: BaseModel) -> list[str]:
    """Return the names of hints in the body that the service ignores, without list indexes, each once."""
    found: dict[str, None] = {}
    for name, field in type(body).model_fields.items():
        value = getattr(body, name)
        if IGNORED in field.metadata:
            if value not in _NEUTRAL_HINTS:
                found[name] = None
            continue
        for one in value if isinstance(value, list) else [value]:
            if isinstance(one, BaseModel):
                found |= dict.fromkeys(f"{name}.{inner}" for inner in find_ignored(one))
    return list(found)


Hint = Annotated[Any, IGNORED, Field(description="Accepted; changes nothing")]
# Null is accepted everywhere, since some clients send every field.
Unsupported = Annotated[
    None, BeforeValidator(_reject), WithJsonSchema({"type": "null", "description": "Not supported"})
]
Off = Annotated[Any, AfterValidator(Only(False)), WithJsonSchema({"enum": [None, False]})]
On = Annotated[Any, AfterValidator(Only(True)), WithJsonSchema({"enum": [None, True]})]
Zero = Annotated[Any, AfterValidator(Only(0)), WithJsonSchema({"enum": [None, 0]})]
One = Annotated[Any, AfterValidator(Only(1)), WithJsonSchema({"enum": [None, 1]})]
EmptyList = Annotated[Any, AfterValidator(Only([])), WithJsonSchema({"enum": [None, []]})]
EmptyObject = Annotated[Any, AfterValidator(Only({})), WithJsonSchema({"enum": [None, {}]})]
ImageUrl = Annotated[
    bytes, BeforeValidator(_read_image_url), WithJsonSchema({"type": "string", "description": "A data URL"})
]
Text = Annotated[str, Field(max_length=MAX_TEXT)]
NonBlankText = Annotated[Text, AfterValidator(_reject_blank), Field(json_schema_extra=NOT_BLANK)]


class Hints(StrictIn):
    """The hints that OpenAI's endpoints have in common."""

    user: Hint = None
    safety_identifier: Hint = None
    prompt_cache_key: Hint = None
    prompt_cache_retention: Hint = None
    prompt_cache_options: Hint = None
    service_tier: Hint = None
    parallel_tool_calls: Hint = None
