"""What the request bodies are made of."""

from __future__ import annotations

import base64
import binascii
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

MAX_IMAGES = 64
MAX_TEXT = 100_000


def image_bytes(value: Any) -> bytes:
    """The encoded picture in a base64 text or a data URL; bytes of an upload pass through. Raises ValueError."""
    if isinstance(value, bytes):
        return value
    if not isinstance(value, str):
        raise ValueError("give an image as a base64 text or a data URL")  # noqa: TRY004  pydantic wants ValueError
    text = value.partition(",")[2] if value.startswith("data:") else value
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError(f"the image is not valid base64: {error}") from error


EncodedImage = Annotated[
    bytes,
    BeforeValidator(image_bytes),
    WithJsonSchema({"type": "string", "description": "PNG, JPEG or WebP, as base64 or as a data URL"}),
]


def check_images(count: int) -> None:
    """Raises ValueError for more pictures than one request may have, turns and demonstrations included."""
    if count > MAX_IMAGES:
        raise ValueError(f"the request has {count} images; send at most {MAX_IMAGES} in all")


class StrictIn(BaseModel):
    """A request body: unknown fields are refused, and so are values of another type."""

    # strict: a false is no 0, and a "7" is no 7
    model_config = ConfigDict(extra="forbid", strict=True)


Strength = Annotated[float, Field(allow_inf_nan=False, description="1 is the vector as it was trained")]
StopText = Annotated[str, Field(min_length=1, max_length=64)]
