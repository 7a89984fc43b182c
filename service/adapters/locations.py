"""The places of stores: those that must lie apart do, and a folder is made."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from urllib.parse import urlsplit

from sqlalchemy import make_url

from vlibrary.domain.errors import InvalidInput


def check_disjoint(artifacts: str, others: Iterable[str]) -> None:
    """Raises InvalidInput when the artifacts' place holds one of the others, or lies in it.

    Places are paths, s3://bucket/prefix and URLs of databases. The collector removes every object that no vector has,
    and would take another's files for such.
    """
    for other in others:
        mine, its = _parts(artifacts), _parts(other)
        shared = min(len(mine), len(its))
        if mine[:shared] == its[:shared]:
            raise InvalidInput(
                f"The artifacts' place {artifacts!r} and {other!r}, where other data lie, are not apart: the collector "
                "would remove what is no artifact.",
                "Give each a folder, or a bucket and prefix, that is not part of the other's: VLIBRARY_ARTIFACTS, "
                "VLIBRARY_SNAPSHOTS, VLIBRARY_DATA_DIR.",
            )


def create_folder(folder: Path, setting: str) -> None:
    """Make the folder that this setting names, if need be. Raises InvalidInput where that cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidInput(
            f"The folder {str(folder)!r} cannot be made ({error.strerror}).",
            f"Let {setting} name a folder that this process may write to.",
        ) from error


def _parts(place: str) -> tuple[str, ...]:
    """What must begin alike for one place to be part of another."""
    if place.startswith("sqlite"):
        place = (make_url(place).database or "").removeprefix("file:")
    if "://" not in place:
        return Path(place).resolve().parts
    url = urlsplit(place)
    return (url.scheme, url.netloc, *filter(None, url.path.split("/")))
