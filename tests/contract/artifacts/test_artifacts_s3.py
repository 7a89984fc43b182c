"""Failures of the S3 store: boto3's errors and deadlines without a server, network faults with a real one."""

from __future__ import annotations

import functools
import hashlib
import http.client
import inspect
import socket
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import boto3.exceptions
import botocore.exceptions
import pytest
import urllib3.exceptions
from mypy_boto3_s3 import S3Client

from tests.support.fault_proxy import Fault, FaultProxy
from tests.support.s3_server import ACCESS_KEY, SECRET_KEY, S3Server
from vlibrary.adapters.artifacts.folder import FolderArtifacts
from vlibrary.adapters.artifacts.open import open_artifacts
from vlibrary.adapters.artifacts.s3 import S3Artifacts, connect
from vlibrary.domain.errors import ArtifactLost, ArtifactsUnavailable

KEY = "01JD/abc.safetensors"
DATA = bytes(range(256)) * 2_000
SHA256 = hashlib.sha256(DATA).hexdigest()
MODULES = (botocore.exceptions, boto3.exceptions, urllib3.exceptions, http.client)
# Raised while a proxy is set up, where botocore wraps it.
NEVER_SEEN = urllib3.exceptions.ProxySchemeUnsupported
ERRORS = sorted(
    {
        error
        for module in MODULES
        for _, error in inspect.getmembers(module, inspect.isclass)
        if issubclass(error, Exception)
        and not issubclass(error, (Warning, NEVER_SEEN))
        and error.__module__ == module.__name__
    },
    key=lambda error: (error.__module__, error.__name__),
)


def client(endpoint: str | None, **more: Any) -> S3Client:
    keys = {"access_key": ACCESS_KEY, "secret_key": SECRET_KEY}
    return connect(region="us-east-1", endpoint=endpoint, **(keys | more))


@functools.cache
def failing_client() -> tuple[S3Client, list[Exception]]:
    """A client that raises the next of these errors on each call, and the last one from then on."""
    errors: list[Exception] = []
    broken = client("http://127.0.0.1:9")

    def fail(**_: object) -> None:
        raise errors[-1]

    broken.meta.events.register("before-call.s3", fail)
    return broken, errors


def raising(error: Exception, *, tries: int = 1, pause: float = 0.0) -> S3Artifacts:
    broken, errors = failing_client()
    errors.append(error)
    return S3Artifacts(broken, "bucket", tries=tries, pause=pause)


def refusing(status: int, code: str, *, tries: int = 1, pause: float = 0.0) -> S3Artifacts:
    answer: Any = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return raising(botocore.exceptions.ClientError(answer, "Operation"), tries=tries, pause=pause)


class TestErrors:
    @pytest.mark.parametrize("error", ERRORS, ids=lambda error: f"{error.__module__}.{error.__name__}")
    def test_all_errors_of_boto_become_domain_errors(self, error: type[Exception]) -> None:
        made = error.__new__(error)
        made.__dict__["response"] = {}  # what every ClientError has
        store = raising(made)
        for ask in (
            lambda: store.get(KEY, SHA256),
            lambda: store.put(KEY, DATA, SHA256),
            lambda: store.delete(KEY),
            lambda: store.stat(KEY),
            lambda: list(store.list()),
            store.now,
        ):
            with pytest.raises(ArtifactsUnavailable):
                ask()
        with pytest.raises(ArtifactsUnavailable):
            store.check()

    def test_a_missing_bucket_is_not_a_lost_object(self) -> None:
        with pytest.raises(ArtifactLost):
            refusing(404, "NoSuchKey").get(KEY, SHA256)
        with pytest.raises(ArtifactsUnavailable, match="NoSuchBucket"):
            refusing(404, "NoSuchBucket").get(KEY, SHA256)

    @pytest.mark.parametrize(
        ("status", "code", "cure"),
        [
            (404, "NoSuchBucket", "VLIBRARY_ARTIFACTS"),
            (403, "SignatureDoesNotMatch", "AWS_SECRET"),
            (500, "X", "again"),
        ],
    )
    def test_the_cure_names_the_wrong_setting(self, status: int, code: str, cure: str) -> None:
        with pytest.raises(ArtifactsUnavailable) as caught:
            refusing(status, code).get(KEY, SHA256)
        assert cure in caught.value.cure

    @pytest.mark.parametrize(
        ("status", "code"), [(403, "AccessDenied"), (301, "PermanentRedirect"), (400, "InvalidRequest")]
    )
    def test_a_rejection_is_not_retried(self, status: int, code: str) -> None:
        store = refusing(status, code, tries=3, pause=60.0)
        started = time.monotonic()
        with pytest.raises(ArtifactsUnavailable, match=code):
            store.get(KEY, SHA256)
        assert time.monotonic() - started < 30.0

    @pytest.mark.parametrize("headers", [{}, {"date": "no date"}, {"date": "Mon, 23 Nov 2026 27:39:07 GMT"}])
    def test_a_corrupt_date_is_requested_again(self, headers: dict[str, str]) -> None:
        answers = [headers, headers, {"date": "Mon, 23 Nov 2026 07:39:07 GMT"}, headers]
        asking = client("http://127.0.0.1:9")

        def answer(**_: object) -> Any:
            headers_now = answers.pop(0)
            parsed = {"IsTruncated": False, "ResponseMetadata": {"HTTPHeaders": headers_now}}
            return SimpleNamespace(status_code=200), parsed

        asking.meta.events.register("before-call.s3.ListObjectsV2", answer)
        assert S3Artifacts(asking, "bucket", pause=0.0).now() == datetime(2026, 11, 23, 7, 39, 7, tzinfo=UTC)
        with pytest.raises(ArtifactsUnavailable, match="return its time"):
            S3Artifacts(asking, "bucket", tries=1).now()

    def test_bytes_with_another_digest_are_not_sent(self) -> None:
        with pytest.raises(ArtifactLost, match=KEY):
            S3Artifacts(client("http://127.0.0.1:9"), "bucket", pause=0.0).put(KEY, DATA + b"x", SHA256)

    @pytest.mark.parametrize("endpoint", ["http://host", "https://host", None])
    def test_every_upload_is_signed_over_its_bytes(self, endpoint: str | None) -> None:
        """The server refuses what was damaged on the way, also behind something that ends TLS before it."""
        uploading, signed = client(endpoint), []

        def stop(request: Any, **_: object) -> None:
            signed.append(request.headers["X-Amz-Content-SHA256"])
            raise OSError

        uploading.meta.events.register("before-send.s3.PutObject", stop)
        with pytest.raises(ArtifactsUnavailable):
            S3Artifacts(uploading, "bucket", tries=1).put(KEY, DATA, SHA256)
        assert signed == [SHA256.encode()]

    def test_invalid_settings_raise(self) -> None:
        with pytest.raises(ArtifactsUnavailable):
            connect(region="us-east-1", endpoint="no url")


class TestWithoutServer:
    def test_a_closed_port_is_unavailable(self) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            store = S3Artifacts(client(f"http://127.0.0.1:{probe.getsockname()[1]}"), "bucket", pause=0.01)
            with pytest.raises(ArtifactsUnavailable, match="EndpointConnectionError") as caught:
                store.get(KEY, SHA256)
            assert "127.0.0.1" not in str(caught.value)

    def test_a_server_that_never_responds_is_unavailable(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as silent:
            endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
            store = S3Artifacts(client(endpoint, read_timeout=0.3), "bucket", tries=99, deadline=1.0)
            started = time.monotonic()
            with pytest.raises(ArtifactsUnavailable):
                store.get(KEY, SHA256)
            assert time.monotonic() - started < 10.0  # 99 tries would take half a minute and more

    @pytest.mark.parametrize("place", ["s3://", "http://host/bucket", "gs://bucket"])
    def test_an_invalid_location_raises(self, place: str) -> None:
        with pytest.raises(ArtifactsUnavailable):
            open_artifacts(place)

    def test_a_location_is_a_folder_or_a_bucket(self, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        assert isinstance(open_artifacts(str(tmp_path / "artifacts")), FolderArtifacts)
        assert isinstance(open_artifacts("s3://bucket/some/prefix", endpoint_url="http://127.0.0.1:9"), S3Artifacts)


@pytest.fixture
def proxy(s3_server: S3Server) -> Iterator[FaultProxy]:
    with FaultProxy(s3_server.endpoint) as proxy:
        yield proxy


@pytest.fixture
def store(proxy: FaultProxy, s3_artifacts: Callable[..., S3Artifacts]) -> S3Artifacts:
    return s3_artifacts(client(proxy.endpoint))


@pytest.mark.real
class TestRealServer:
    def test_the_digest_is_stored_with_the_object(
        self, s3_artifacts: Callable[..., S3Artifacts], s3_client: S3Client, bucket: str
    ) -> None:
        s3_artifacts().put(KEY, DATA, SHA256)
        head = s3_client.head_object(Bucket=bucket, Key=f"vectors/{KEY}")
        assert head["Metadata"] == {"sha256": SHA256}
        assert head["ContentLength"] == len(DATA)

    def test_a_missing_bucket_and_wrong_credentials_are_unavailable(self, s3_server: S3Server) -> None:
        for store in (
            S3Artifacts(client(s3_server.endpoint), "no-such-bucket"),
            S3Artifacts(client(s3_server.endpoint, secret_key="wrong"), "no-such-bucket"),
        ):
            with pytest.raises(ArtifactsUnavailable):
                store.get(KEY, SHA256)
            with pytest.raises(ArtifactsUnavailable):
                store.check()

    @pytest.mark.parametrize("fault", [Fault.FLIP, Fault.TRUNCATE, Fault.LOSE_ANSWER, Fault.SLOW_DOWN, Fault.HANG_UP])
    def test_a_read_survives_two_faults_in_a_row(self, proxy: FaultProxy, store: S3Artifacts, fault: Fault) -> None:
        store.put(KEY, DATA, SHA256)
        proxy.faults.extend([fault, fault])
        assert store.get(KEY, SHA256) == DATA
        assert not proxy.faults

    @pytest.mark.parametrize(
        ("fault", "error"),
        [(Fault.FLIP, ArtifactLost), (Fault.TRUNCATE, ArtifactsUnavailable), (Fault.SLOW_DOWN, ArtifactsUnavailable)],
    )
    def test_a_read_fails_after_its_tries(
        self, proxy: FaultProxy, store: S3Artifacts, fault: Fault, error: type[Exception]
    ) -> None:
        store.put(KEY, DATA, SHA256)
        proxy.faults.extend([fault] * 9)
        with pytest.raises(error):
            store.get(KEY, SHA256)
        assert len(proxy.faults) == 9 - 3

    @pytest.mark.parametrize("fault", [Fault.LOSE_ANSWER, Fault.SLOW_DOWN, Fault.HANG_UP, Fault.FLIP_REQUEST])
    def test_an_upload_survives_two_faults_in_a_row(self, proxy: FaultProxy, store: S3Artifacts, fault: Fault) -> None:
        proxy.faults.extend([fault, fault])
        store.put(KEY, DATA, SHA256)
        assert store.get(KEY, SHA256) == DATA

    def test_an_upload_whose_response_was_lost_succeeds(self, proxy: FaultProxy, store: S3Artifacts) -> None:
        proxy.faults.append(Fault.LOSE_ANSWER)
        store.put(KEY, DATA, SHA256)
        assert proxy.seen == [("PUT", 200), ("PUT", 412), ("GET", 200)]

    def test_an_upload_corrupted_in_transit_is_sent_again(self, proxy: FaultProxy, store: S3Artifacts) -> None:
        proxy.faults.append(Fault.FLIP_REQUEST)
        store.put(KEY, DATA, SHA256)
        assert proxy.seen == [("PUT", 400), ("PUT", 200)]
        assert store.get(KEY, SHA256) == DATA

    def test_a_slow_response_is_aborted_at_the_deadline(
        self, proxy: FaultProxy, s3_artifacts: Callable[..., S3Artifacts]
    ) -> None:
        store = s3_artifacts(client(proxy.endpoint), deadline=1.0)
        store.put(KEY, DATA, SHA256)
        proxy.faults.append(Fault.DRIP)
        started = time.monotonic()
        with pytest.raises(ArtifactsUnavailable, match="TimeoutError"):
            store.get(KEY, SHA256)
        assert 0.9 < time.monotonic() - started < 20.0  # the whole drip would take minutes

    def test_a_listing_of_several_pages_is_complete(self, s3_client: S3Client, bucket: str) -> None:
        store = S3Artifacts(s3_client, bucket, page=3)
        for number in range(7):
            store.put(f"0{number}/x", b"", hashlib.sha256(b"").hexdigest())
        assert [found.key for found in store.list()] == [f"0{number}/x" for number in range(7)]
        assert [found.key for found in store.list(after="02/x")] == [f"0{number}/x" for number in range(3, 7)]

    def test_threads_can_share_a_store(self, s3_artifacts: Callable[..., S3Artifacts]) -> None:
        store = s3_artifacts()
        failed: list[BaseException] = []

        def work(number: int) -> None:
            data = DATA + bytes([number])
            digest = hashlib.sha256(data).hexdigest()
            try:
                store.put(f"{number}/a", data, digest)
                assert store.get(f"{number}/a", digest) == data
                store.delete(f"{number}/a")
            except BaseException as error:  # noqa: BLE001  (looked at below)
                failed.append(error)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failed == []
