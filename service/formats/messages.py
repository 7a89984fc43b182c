"""The messages between the api and a worker as JSON, made from the classes of vlibrary.domain themselves.

Bytes travel as base64. A field that the other side does not know is refused, never left out silently: api and workers
run the same release. Whatever cannot be read raises ValueError, or the domain's own error for what it forbids.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, Self, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError
from typing_extensions import TypeAliasType

from vlibrary.domain import errors
from vlibrary.domain.errors import Unavailable, VLibraryError
from vlibrary.domain.query import Query, TaskEmbedding
from vlibrary.domain.vector import Array
from vlibrary.domain.wire import GenerateCall, Generation, TextPiece, WorkerStatus

T = TypeVar("T")

# A larger message is parsed and written in a thread: it takes 10 ms a mebibyte, and all streams would stand still.
LARGE_BYTES = 2**20

_CONFIG = ConfigDict(ser_json_bytes="base64", val_json_bytes="base64", ser_json_inf_nan="strings", extra="forbid")
_FLOAT32 = np.dtype("<f4")
# Only the tree itself: classes derived elsewhere may be built from other arguments.
_ERRORS: Mapping[str, type[VLibraryError]] = {
    kind.code: kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, VLibraryError)
}


class Wire(Generic[T]):
    """How values of one class travel."""

    def __init__(self, kind: Any) -> None:
        # pydantic takes a configuration for a dataclass's alias, not for the dataclass of somebody else.
        alias: Any = TypeAliasType(str(kind), kind)
        self._adapter: TypeAdapter[T] = TypeAdapter(alias, config=_CONFIG)

    def to_json(self, value: T) -> bytes:
        """The value in one line, without a line feed."""
        return self._adapter.dump_json(value)

    def from_json(self, data: bytes) -> T:
        """Raises ValueError that names the fields, not what is in them."""
        try:
            return self._adapter.validate_json(data)
        except ValidationError as error:
            found = [f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors()[:5]]
            raise ValueError("; ".join(found)) from error


CALL: Wire[GenerateCall] = Wire(GenerateCall)
QUERY: Wire[Query] = Wire(Query)
STATUS: Wire[WorkerStatus] = Wire(WorkerStatus)


class EmbeddingMessage(BaseModel):
    """What `embed` answers; the parts as little-endian float32."""

    model_config = _CONFIG

    image: bytes | None
    text: bytes | None

    @classmethod
    def of(cls, embedding: TaskEmbedding) -> Self:
        return cls(image=_bytes(embedding.image), text=_bytes(embedding.text))

    @property
    def embedding(self) -> TaskEmbedding:
        """Raises ValueError for bytes that are no float32 numbers."""
        return TaskEmbedding(image=_array(self.image), text=_array(self.text))


@dataclass(frozen=True)
class Problem:
    """An error of ours on its way between processes."""

    code: str
    detail: str
    cure: str

    @classmethod
    def of(cls, error: VLibraryError) -> Self:
        return cls(error.code, error.detail, error.cure)

    @property
    def error(self) -> VLibraryError:
        """An error of the same class; Unavailable for a class that this release does not know."""
        return _ERRORS.get(self.code, Unavailable)(self.detail, self.cure)


@dataclass(frozen=True)
class PieceLine:
    piece: TextPiece


@dataclass(frozen=True)
class GenerationLine:
    generation: Generation


@dataclass(frozen=True)
class ErrorLine:
    error: Problem


# One line of an answer's stream; an error's line is also the body of an answer that failed at once.
_LINE: Wire[PieceLine | GenerationLine | ErrorLine] = Wire(PieceLine | GenerationLine | ErrorLine)


def line_of(event: TextPiece | Generation | VLibraryError) -> bytes:
    """The event as one JSON object, without a line feed."""
    match event:
        case TextPiece():
            return _LINE.to_json(PieceLine(event))
        case Generation():
            return _LINE.to_json(GenerationLine(event))
        case _:
            return _LINE.to_json(ErrorLine(Problem.of(event)))


def event_in(line: bytes) -> TextPiece | Generation | VLibraryError:
    """The event of a line. Raises ValueError."""
    match _LINE.from_json(line):
        case PieceLine(piece):
            return piece
        case GenerationLine(generation):
            return generation
        case ErrorLine(problem):
            return problem.error


def _bytes(part: Array | None) -> bytes | None:
    return None if part is None else part.astype(_FLOAT32).tobytes()


def _array(part: bytes | None) -> Array | None:
    return None if part is None else np.frombuffer(part, _FLOAT32).astype(np.float32)
