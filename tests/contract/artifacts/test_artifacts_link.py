"""Download links, on a real S3 server: they serve one object, for a limited time."""

from __future__ import annotations

import time
from collections.abc import Callable

import httpx2
import pytest

from tests.support.memory.artifacts import MemoryArtifacts
from vlibrary.adapters.artifacts.checks import digest
from vlibrary.adapters.artifacts.folder import FolderArtifacts
from vlibrary.adapters.artifacts.s3 import S3Artifacts, connect
from vlibrary.domain.errors import ArtifactsUnavailable, InvalidInput
from vlibrary.domain.ports.artifacts import Linking

KEY = "01JD/abc.safetensors"
DATA = bytes(range(256)) * 200


@pytest.mark.real
def test_a_link_serves_the_object_until_it_expires(s3_artifacts: Callable[..., S3Artifacts]) -> None:
    store = s3_artifacts()
    store.put(KEY, DATA, digest(DATA))
    link = store.link(KEY, 60, filename="colour-1.safetensors")
    answer = httpx2.get(link)
    assert answer.content == DATA
    assert answer.headers["content-disposition"] == 'attachment; filename="colour-1.safetensors"'
    assert httpx2.get(link.replace("abc", "abd")).status_code == 403
    assert httpx2.put(link, content=b"other").status_code == 403
    expiring = store.link(KEY, 1, filename="a")
    deadline = time.monotonic() + 10
    while httpx2.get(expiring).status_code != 403:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert store.get(KEY, digest(DATA)) == DATA


def test_a_link_without_credentials_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/none")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    store = S3Artifacts(connect(region="us-east-1", endpoint="http://127.0.0.1:9"), "bucket")
    with pytest.raises(ArtifactsUnavailable, match="NoCredentialsError"):
        store.link(KEY, 60, filename="a")
    with pytest.raises(InvalidInput):
        store.link("../a", 60, filename="a")


def test_only_s3_provides_links() -> None:
    assert isinstance(S3Artifacts(connect(region="us-east-1"), "bucket"), Linking)
    for kind in (FolderArtifacts, MemoryArtifacts):
        assert not issubclass(kind, Linking)
