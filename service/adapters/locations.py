"""Validation of storage locations."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from urllib.parse import urlsplit

from sqlalchemy import make_url

from vlibrary.domain.errors import InvalidSetting


def check_disjoint(artifacts: str, others: Iterable[str]) -> None:
    """Raise InvalidSetting if the artifacts' location contains one of the others or is part of it.

    Locations are paths, s3://bucket/prefix and database URLs. The collector deletes every object that no vector
    references, so it would delete the other location's files.
    """
    for other in others:
        mine, its = _parts(artifacts), _parts(other)
        shared = min(len(mine), len(its))
        if mine[:shared] == its[:shared]:
            raise InvalidSetting(
                f"The artifact location {artifacts!r} overlaps {other!r}; garbage collection would delete other data.",
                "Use separate folders, or separate buckets or prefixes, for VLIBRARY_ARTIFACTS, VLIBRARY_SNAPSHOTS and "
                "VLIBRARY_DATA_DIR.",
            )


def create_folder(folder: Path, setting: str) -> None:
    """Create the folder that the setting names unless it exists. Raises InvalidSetting if it cannot be created."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidSetting(
            f"{setting} is {str(folder)!r}: the folder cannot be created ({error.strerror}).",
            f"Set {setting} to a folder that this process can write to.",
        ) from error


def _parts(location: str) -> tuple[str, ...]:
    """Split a location so that its parts start with those of each location that contains it."""
    if location.startswith("sqlite"):
        location = (make_url(location).database or "").removeprefix("file:")
    if "://" not in location:
        return Path(location).resolve().parts
    url = urlsplit(location)
    return (url.scheme, url.netloc, *filter(None, url.path.split("/")))
