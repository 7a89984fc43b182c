"""Selects the snapshot store of a location."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from vlibrary.adapters.snapshots.folder import FolderSnapshots
from vlibrary.adapters.snapshots.object_store import ObjectStoreSnapshots
from vlibrary.domain.ports.artifacts import Artifacts
from vlibrary.domain.ports.snapshots import Snapshots


def open_snapshots(location: str, *, cache: Path, open_store: Callable[[str], Artifacts]) -> Snapshots:
    """Open the snapshots in a folder, or in the object store at a URL with the folder `cache` in front of it.

    open_store: opens the object store at a URL. Raises ArtifactsUnavailable for an invalid location.
    """
    if "://" in location:
        return ObjectStoreSnapshots(FolderSnapshots(cache), open_store(location))
    return FolderSnapshots(Path(location))
