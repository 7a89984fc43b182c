"""Which artifact store a setting names."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

from vlibrary.adapters.artifacts.folder import FolderArtifacts
from vlibrary.adapters.artifacts.s3 import S3Artifacts, connect
from vlibrary.domain.errors import ArtifactsUnavailable
from vlibrary.domain.ports.artifacts import Artifacts


def open_artifacts(place: str, *, endpoint_url: str | None = None) -> Artifacts:
    """The store at s3://bucket/prefix, or else in the folder of this path.

    endpoint_url: of an S3 server other than AWS; region and credentials as boto3 finds them. Raises
    ArtifactsUnavailable for a place that cannot be one; whether the store answers, only its check() tells.
    """
    if "://" not in place:
        return FolderArtifacts(Path(place))
    url = urlsplit(place)
    if url.scheme != "s3" or not url.netloc:
        raise ArtifactsUnavailable(
            f"{place!r} names no artifact store.", "Write s3://bucket/prefix, or a folder's path."
        )
    prefix = url.path.strip("/")
    return S3Artifacts(connect(endpoint=endpoint_url), url.netloc, prefix=f"{prefix}/" if prefix else "")
