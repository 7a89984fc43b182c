"""Checks and errors that all artifact stores share: key syntax, digests, availability."""

from __future__ import annotations

import hashlib
import re

from vlibrary.domain.errors import ArtifactLost, ArtifactsUnavailable, InvalidInput

_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}"
_KEY = re.compile(rf"{_NAME}(/{_NAME}){{0,3}}")
_RETRY = "Try again; if the error persists, check that the store is up and that this service may write to it."
_REGISTER_AGAIN = "Register the vector again from its file."


def check_key(key: str) -> None:
    """Raise InvalidInput unless the key is one to four plain names joined by slashes, which rules out `..`."""
    if not is_key(key):
        raise InvalidInput(f"Invalid object key {key!r}.", "Use letters, digits, dots, dashes and underscores.")


def is_key(key: str) -> bool:
    """Return whether an object can have this key."""
    return _KEY.fullmatch(key) is not None


def digest(data: bytes | bytearray) -> str:
    """Return the SHA-256 digest in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def check_digest(key: str, data: bytes, sha256: str) -> None:
    """Raise ArtifactLost unless the bytes have this digest."""
    if digest(data) != sha256:
        raise corrupt_object(key)


def corrupt_object(key: str) -> ArtifactLost:
    return ArtifactLost(f"Object {key} is corrupt: its bytes do not match its digest.", _REGISTER_AGAIN)


def missing_object(key: str) -> ArtifactLost:
    return ArtifactLost(f"Object {key} is missing from the artifact store.", _REGISTER_AGAIN)


def store_unavailable(action: str, reason: str, cure: str | None = None) -> ArtifactsUnavailable:
    """Return the error for a failed action. reason: shown to clients, so without addresses and paths."""
    return ArtifactsUnavailable(f"The artifact store cannot {action} ({reason}).", cure or _RETRY)
