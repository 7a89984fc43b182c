"""The keys of a library's objects in an artifact store, by which it knows its own among others."""

from __future__ import annotations

import re
import uuid

_ULID = "[0-7][0-9A-HJKMNP-TV-Z]{25}"
_RANDOM = "[0-9a-f]{32}"
_ARTIFACT = re.compile(rf"{_ULID}/[0-9a-f]{{64}}\.safetensors")
_LEFT = re.compile(rf"(?:(?:{_ULID}|collector)/)?draft-{_RANDOM}|check-{_RANDOM}")


def artifact_key(upload: str, sha256: str) -> str:
    """Where an upload's bytes lie. upload: a ULID that no other upload has."""
    return f"{upload}/{sha256}.safetensors"


def draft_name() -> str:
    """What a file is called while it is written; it lies beside its place."""
    return f"draft-{uuid.uuid4().hex}"


def check_key() -> str:
    """Where something is stored and removed at once, to see whether the store works."""
    return f"check-{uuid.uuid4().hex}"


def is_artifact(key: str) -> bool:
    """Whether it is the key of an upload's bytes."""
    return _ARTIFACT.fullmatch(key) is not None


def is_ours(key: str) -> bool:
    """Whether such an object is an artifact, or what was left behind by somebody who stored something."""
    return is_artifact(key) or _LEFT.fullmatch(key) is not None
