"""Selects the artifact store of a location."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

from vlibrary.adapters.artifacts.folder import FolderArtifacts
from vlibrary.adapters.artifacts.s3 import S3Artifacts, connect
from vlibrary.domain.errors import ArtifactsUnavailable
from vlibrary.domain.ports.artifacts import Artifacts


def open_artifacts(location: str, *, endpoint_url: str | None = None) -> Artifacts:
    """Open the store at s3://bucket/prefix, or in the folder at a path.

    endpoint_url: of an S3 server other than AWS; boto3 finds the region and the credentials. Raises
    ArtifactsUnavailable for an invalid location; call check() to see whether the store responds.
    """
    if "://" not in location:
        return FolderArtifacts(Path(location))
    url = urlsplit(location)
    if url.scheme != "s3" or not url.netloc:
        raise ArtifactsUnavailable(
            f"Invalid location {location!r} of an artifact store.", "Use s3://bucket/prefix or the path of a folder."
        )
    prefix = url.path.strip("/")
    return S3Artifacts(connect(endpoint=endpoint_url), url.netloc, prefix=f"{prefix}/" if prefix else "")
