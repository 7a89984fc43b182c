"""Field types shared by the request bodies."""

from __future__ import annotations

import json
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema
from pydantic.config import JsonDict
from pydantic_core import PydanticCustomError

from vlibrary.formats.base64_text import decode_base64

MAX_IMAGES = 64
MAX_TEXT = 100_000
# For the schema of a text that a validator checks, with a better message than that of a pattern.
NOT_BLANK: JsonDict = {"pattern": r"\S"}


def image_bytes(value: Any) -> bytes:
    """Decode an image given as base64 or as a data URL; return the bytes of an upload unchanged. Raises ValueError."""
    if isinstance(value, bytes):
        return value
    if not isinstance(value, str):
        raise ValueError("an image must be a base64 string or a data URL")  # noqa: TRY004  pydantic wants ValueError
    try:
        return decode_base64(value)
    except ValueError as error:
        raise ValueError(f"the image is not valid base64: {error}") from error


EncodedImage = Annotated[
    bytes,
    BeforeValidator(image_bytes),
    WithJsonSchema({"type": "string", "description": "PNG, JPEG, WebP or GIF, as base64 or as a data URL"}),
]


def contradiction(field: str, message: str) -> PydanticCustomError:
    """Return the error for a field that is wrong because of another one, for validators of a whole object."""
    return PydanticCustomError("contradiction", "{message}", {"message": message, "field": field})


def check_images(count: int, field: str) -> None:
    """Raise an error about that field if a request has too many images, demonstrations included."""
    if count > MAX_IMAGES:
        raise contradiction(field, f"the request has {count} images in total; send at most {MAX_IMAGES}")


class StrictIn(BaseModel):
    """A request body that rejects unknown fields and values of another type."""

    # strict: neither false nor "0" is a 0.
    model_config = ConfigDict(extra="forbid", strict=True)


Strength = Annotated[
    float, Field(allow_inf_nan=False, description="Factor for the vector's edits; 1 is the vector as trained")
]
StopText = Annotated[str, Field(min_length=1, max_length=1024)]
Seed = Annotated[int, Field(ge=-(2**63), lt=2**63)]
Logprobs = Annotated[int, Field(ge=0, le=20)]
TokenId = Annotated[int, Field(ge=0, lt=2**31)]
Penalty = Annotated[float, Field(ge=-2, le=2, allow_inf_nan=False)]
# JSON objects have texts as names.
LogitBias = Annotated[
    dict[
        Annotated[str, Field(pattern=r"^(0|[1-9][0-9]{0,8})$")],
        Annotated[float, Field(ge=-100, le=100, allow_inf_nan=False)],
    ],
    Field(max_length=1024),
]

MAX_SCHEMA = 65_536


def reject_other_ends(**options: Any) -> None:
    """Raise an error about the first of these options that is set, in a request with a JSON format."""
    for name, value in options.items():
        if value:
            raise contradiction(name, f"a JSON format determines the end of the answer; omit {name}")


def _check_size(schema: dict[str, Any]) -> dict[str, Any]:
    if len(json.dumps(schema)) > MAX_SCHEMA:
        raise ValueError(f"the JSON schema has more than {MAX_SCHEMA} characters")
    return schema


JsonSchema = Annotated[dict[str, Any], AfterValidator(_check_size)]
