"""The port of the artifact store, and the keys of a library's objects in it."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol, runtime_checkable

_ULID = "[0-7][0-9A-HJKMNP-TV-Z]{25}"
_RANDOM = "[0-9a-f]{32}"
_ARTIFACT = re.compile(rf"{_ULID}/[0-9a-f]{{64}}\.safetensors")
_TEMPORARY = re.compile(rf"(?:(?:{_ULID}|collector)/)?draft-{_RANDOM}|check-{_RANDOM}")


@dataclass(frozen=True)
class StoredObject:
    """Metadata of an object in the artifact store. size: in bytes. modified: by the store's clock."""

    key: str
    size: int
    modified: datetime


class Artifacts(Protocol):
    """Immutable objects by key. Every method raises ArtifactsUnavailable if the store cannot be reached.

    A key is one to four names joined by slashes; a name has letters, digits, dots, dashes and underscores and starts
    with a letter or digit. Other keys raise InvalidInput.
    """

    def put(self, key: str, data: bytes, sha256: str) -> None:
        """Store the object atomically and durably: once this returns, `get` finds it, even after a crash.

        Storing the same bytes again succeeds. Raises ArtifactLost for different bytes under an existing key (keys are
        never reused) and for bytes that do not match the digest.
        """
        ...

    def get(self, key: str, sha256: str) -> bytes:
        """Return the bytes after checking their digest. Raises ArtifactLost if they are missing or differ."""
        ...

    def delete(self, key: str) -> None:
        """Remove the object; a missing one is ignored."""
        ...

    def stat(self, key: str) -> StoredObject | None:
        """Return the object's metadata, or None if there is no such object."""
        ...

    def list(self, after: str | None = None) -> Iterator[StoredObject]:
        """Yield all objects with key > after, ordered by code point.

        Objects stored or deleted during the listing may be included or not. Leftovers of killed writers appear under
        their own keys, so that the collector finds them.
        """
        ...

    def now(self) -> datetime:
        """Return the store's clock, which sets `modified`; timezone-aware UTC."""
        ...

    def check(self) -> None:
        """Raise ArtifactsUnavailable unless the store responds. Writes nothing, so that it may be called often."""
        ...


@runtime_checkable
class Linking(Protocol):
    """An artifact store from which clients can download directly."""

    def link(self, key: str, seconds: int, *, filename: str) -> str:
        """Return a URL that serves the object to anybody for this many seconds, to be saved under this file name.

        The object's existence and digest are not checked. Raises ArtifactsUnavailable if no URL can be made.
        """
        ...


def artifact_key(upload: str, sha256: str) -> str:
    """Return the key of an upload's artifact. upload: a ULID that no other upload has."""
    return f"{upload}/{sha256}.safetensors"


def draft_name() -> str:
    """Return a random name for a file that is being written; the file is renamed once it is complete."""
    return f"draft-{uuid.uuid4().hex}"


def is_artifact_key(key: str) -> bool:
    """Return whether the key is that of an uploaded artifact."""
    return _ARTIFACT.fullmatch(key) is not None


def is_library_key(key: str) -> bool:
    """Return whether the object is an artifact, or a temporary object that a killed process left behind."""
    return is_artifact_key(key) or _TEMPORARY.fullmatch(key) is not None
