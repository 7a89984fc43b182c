"""What every artifact store checks, in the same words: the form of keys, and digests."""

from __future__ import annotations

import hashlib
import re

from vlibrary.domain.errors import ArtifactLost, ArtifactsUnavailable, InvalidInput

_SEGMENT = r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}"
_KEY = re.compile(rf"{_SEGMENT}(/{_SEGMENT}){{0,3}}")
_WAIT = "Try again; if it stays so, check that the store is up and that this service may write to it."
_CURE = "Register the vector again from its file."


def check_key(key: str) -> None:
    """Raises InvalidInput unless the key is one to four plain names joined by slashes: nothing to climb up with."""
    if not is_key(key):
        raise InvalidInput(f"The object key {key!r} is not allowed.", "Use letters, digits, dot, dash and underscore.")


def is_key(key: str) -> bool:
    """Whether an object can have this key."""
    return _KEY.fullmatch(key) is not None


def digest(data: bytes | bytearray) -> str:
    return hashlib.sha256(data).hexdigest()


def check_digest(key: str, data: bytes, sha256: str) -> None:
    """Raises ArtifactLost unless the bytes have this digest."""
    if digest(data) != sha256:
        raise damaged(key)


def damaged(key: str) -> ArtifactLost:
    return ArtifactLost(f"The bytes of object {key} do not have its digest.", _CURE)


def missing(key: str) -> ArtifactLost:
    return ArtifactLost(f"Object {key} is missing from the artifact store.", _CURE)


def unavailable(what: str, reason: str, cure: str | None = None) -> ArtifactsUnavailable:
    """reason: short, and without addresses or paths, since it is shown to whoever asked."""
    return ArtifactsUnavailable(f"The artifact store cannot {what} now ({reason}).", cure or _WAIT)
