"""JSON messages between the API and its workers, made from the classes of vlibrary.domain.

Bytes travel as base64. Unknown fields are refused: the API and its workers must run the same release. Parsing raises
ValueError for an unreadable message, or the domain's error for a value that the domain forbids.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
from pydantic import ConfigDict, TypeAdapter, ValidationError
from typing_extensions import TypeAliasType

from vlibrary.domain import errors
from vlibrary.domain.errors import Unavailable, VLibraryError
from vlibrary.domain.query import Query, TaskEmbedding
from vlibrary.domain.wire import GenerateCall, Generation, TextPiece, WorkerStatus
from vlibrary.formats.strict_json import explain

T = TypeVar("T")

# Larger messages are converted in a thread: 10 ms per MiB on the event loop would delay every stream.
LARGE_BYTES = 2**20

_CONFIG = ConfigDict(ser_json_bytes="base64", val_json_bytes="base64", ser_json_inf_nan="strings", extra="forbid")
_FLOAT32 = np.dtype("<f4")
# Only the classes of this module: subclasses elsewhere may have other constructor arguments.
_ERRORS: Mapping[str, type[VLibraryError]] = {
    kind.code: kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, VLibraryError)
}


class Message(Generic[T]):
    """The conversion of one type to JSON and back."""

    def __init__(self, kind: Any) -> None:
        # pydantic accepts a configuration for an alias of a standard dataclass, but not for the dataclass itself.
        alias: Any = TypeAliasType("alias", kind)
        self._adapter: TypeAdapter[T] = TypeAdapter(alias, config=_CONFIG)

    def to_json(self, value: T) -> bytes:
        """Return the value as one line of JSON, without a line feed."""
        return self._adapter.dump_json(value)

    def from_json(self, data: bytes) -> T:
        """Return the value. Raises ValueError that names the invalid fields but not their content."""
        try:
            return self._adapter.validate_json(data)
        except ValidationError as error:
            raise ValueError(explain(error)) from error


@dataclass(frozen=True)
class _Problem:
    """A VLibraryError on its way between processes."""

    code: str
    detail: str
    cure: str
    field: str | None = None


CALL: Message[GenerateCall] = Message(GenerateCall)
QUERY: Message[Query] = Message(Query)
STATUS: Message[WorkerStatus] = Message(WorkerStatus)
# The fields of a TaskEmbedding.
_EMBEDDING: Message[tuple[bytes | None, bytes | None, int, int]] = Message(tuple[bytes | None, bytes | None, int, int])
# One line of a streamed answer; an error's line is also the body of a refused request. Their fields tell them apart.
_EVENT: Message[TextPiece | Generation | _Problem] = Message(TextPiece | Generation | _Problem)


def dump_event(event: TextPiece | Generation | VLibraryError) -> bytes:
    """Return the event as one JSON object, without a line feed."""
    if isinstance(event, VLibraryError):
        return _EVENT.to_json(_Problem(event.code, event.detail, event.cure, event.field))
    return _EVENT.to_json(event)


def parse_event(line: bytes) -> TextPiece | Generation | VLibraryError:
    """Return the event of a line; an error of an unknown class becomes Unavailable. Raises ValueError."""
    event = _EVENT.from_json(line)
    if isinstance(event, _Problem):
        return _ERRORS.get(event.code, Unavailable)(event.detail, event.cure, field=event.field)
    return event


def dump_embedding(embedding: TaskEmbedding) -> bytes:
    """Return the embedding's parts as JSON, each as little-endian float32."""
    image, text = (
        None if part is None else part.astype(_FLOAT32).tobytes() for part in (embedding.image, embedding.text)
    )
    return _EMBEDDING.to_json((image, text, embedding.text_tokens, embedding.text_limit))


def parse_embedding(data: bytes) -> TaskEmbedding:
    """Return the embedding. Raises ValueError for parts that are not float32 numbers."""
    *parts, tokens, limit = _EMBEDDING.from_json(data)
    image, text = (None if part is None else np.frombuffer(part, _FLOAT32).astype(np.float32) for part in parts)
    return TaskEmbedding(image, text, tokens, limit)
