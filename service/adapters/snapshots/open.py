"""Where the settings keep snapshots."""

from __future__ import annotations

from pathlib import Path

from vlibrary.adapters.artifacts.open import open_artifacts
from vlibrary.adapters.snapshots.folder import FolderSnapshots
from vlibrary.adapters.snapshots.object_store import MirroredSnapshots
from vlibrary.adapters.snapshots.port import Snapshots


def open_snapshots(place: str, *, cache: Path, endpoint_url: str | None = None) -> Snapshots:
    """Those in the folder of this path, or at s3://bucket/prefix by way of the folder `cache`.

    Raises ArtifactsUnavailable for a place that cannot be one.
    """
    if "://" not in place:
        return FolderSnapshots(Path(place))
    return MirroredSnapshots(FolderSnapshots(cache), open_artifacts(place, endpoint_url=endpoint_url))
