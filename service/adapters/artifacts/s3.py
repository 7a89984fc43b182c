"""Artifacts in an S3 bucket.

What boto3 leaves to its caller was measured against a real server: a flipped bit in an answer is returned silently, a
cut-off body is not fetched again, a slow drip outlives every timeout (they count per packet), and an upload whose
acknowledgement was lost is reported as failed although it happened. So every read is checked against the digest, there
is one deadline over everything, and retries are decided here alone. Uploads are signed over their bytes, so a server
refuses what was damaged on the way; one that it takes has succeeded, and one whose answer was lost has when its bytes
can be read back.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from http.client import HTTPException
from typing import TYPE_CHECKING, TypeVar, cast

import boto3
import tenacity
from boto3.exceptions import Boto3Error
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, UndefinedModelAttributeError
from urllib3.exceptions import HTTPError

from vlibrary.adapters.artifacts.checks import check_key, damaged, digest, is_key, missing, unavailable
from vlibrary.domain import objects
from vlibrary.domain.errors import ArtifactLost, ArtifactsUnavailable
from vlibrary.domain.ports.artifacts import StoredObject

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from botocore.awsrequest import AWSPreparedRequest
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import ListObjectsV2OutputTypeDef
    from urllib3 import HTTPResponse

T = TypeVar("T")

# Everything that comes out of boto3, botocore and the HTTP client below them.
FOREIGN = (BotoCoreError, ClientError, Boto3Error, UndefinedModelAttributeError, HTTPError, HTTPException, OSError)
# Refusals that say nothing against the request itself. The codes: it came too slowly, or damaged.
PASSING_STATUS = (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.CONFLICT, HTTPStatus.TOO_MANY_REQUESTS)
PASSING_CODES = ("RequestTimeout", "XAmzContentSHA256Mismatch")
CHUNK = 65_536
# What waiting does not mend, by the server's or boto3's word for it.
_BUCKET = "Check the bucket's name in VLIBRARY_ARTIFACTS (or VLIBRARY_SNAPSHOTS), and VLIBRARY_S3_ENDPOINT_URL."
_ACCESS = "Check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and the rights that they have on this bucket."
_REGION = "Check AWS_DEFAULT_REGION and VLIBRARY_S3_ENDPOINT_URL."
CURES = (
    dict.fromkeys(("NoSuchBucket", "InvalidBucketName", "ParamValidationError"), _BUCKET)
    | dict.fromkeys(("SignatureDoesNotMatch", "InvalidAccessKeyId", "AccessDenied", "ExpiredToken"), _ACCESS)
    | dict.fromkeys(("NoCredentialsError", "PartialCredentialsError"), _ACCESS)
    | dict.fromkeys(("PermanentRedirect", "IllegalLocationConstraintException", "NoRegionError", "ValueError"), _REGION)
)


def connect(
    *,
    region: str | None = None,
    endpoint: str | None = None,
    access_key: str | None = None,
    secret_key: str | None = None,
    connect_timeout: float = 3.0,
    read_timeout: float = 10.0,
) -> S3Client:
    """A client for S3Artifacts. endpoint: None for AWS. region, access_key: None to let boto3 look for them.

    read_timeout: longest wait for one packet. Raises ArtifactsUnavailable for settings that no client can be made of.
    """
    config = Config(
        signature_version="s3v4",  # links would else be signed the old way, which AWS and others no longer take
        connect_timeout=connect_timeout,
        read_timeout=read_timeout,
        retries={"total_max_attempts": 1},  # S3Artifacts retries; two layers would multiply
        request_checksum_calculation="when_required",  # other servers than AWS store or refuse the trailers
        response_checksum_validation="when_required",
        max_pool_connections=32,
        # Also over TLS, which may end before the server does.
        s3={"addressing_style": "path" if endpoint else "auto", "payload_signing_enabled": True},
    )
    try:
        return boto3.session.Session().client(
            "s3",
            region_name=region,
            endpoint_url=endpoint,
            aws_access_key_id=access_key,
            aws_secret_access_key=secret_key,
            config=config,
        )
    except (*FOREIGN, ValueError) as error:
        raise _unavailable("be set up", error) from error


class S3Artifacts:
    """ports.Artifacts in a bucket that exists. Threads and processes may share it.

    prefix: put before every key, such as "vectors/". tries, pause: how often a call asks the server, and seconds
    before it asks again (doubling). deadline: seconds after which it asks and reads no more. page: how many objects a
    listing asks for at once.
    """

    def __init__(
        self,
        client: S3Client,
        bucket: str,
        *,
        prefix: str = "",
        tries: int = 3,
        pause: float = 0.2,
        deadline: float = 30.0,
        page: int = 1_000,
    ) -> None:
        client.meta.events.register("before-send.s3.PutObject", _check_signed, unique_id="check-signed")
        self._client = client
        self._bucket = bucket
        self._prefix = prefix
        self._tries = tries
        self._pause = pause
        self._deadline = deadline
        self._page_size = page

    def put(self, key: str, data: bytes, sha256: str) -> None:
        check_key(key)
        self._asked(f"keep object {key}", lambda give_up: self._put_once(key, data, sha256, give_up))

    def get(self, key: str, sha256: str) -> bytes:
        check_key(key)
        return self._asked(f"read object {key}", lambda give_up: self._get_once(key, sha256, give_up))

    def delete(self, key: str) -> None:
        check_key(key)
        name = self._prefix + key
        self._asked(f"delete object {key}", lambda _: self._client.delete_object(Bucket=self._bucket, Key=name))

    def stat(self, key: str) -> StoredObject | None:
        # By listing: a HEAD has no body, so it cannot tell a missing object from a missing bucket.
        check_key(key)
        page = self._asked(
            f"look for object {key}",
            lambda _: self._client.list_objects_v2(Bucket=self._bucket, Prefix=self._prefix + key, MaxKeys=1),
        )
        return next((found for found in self._stored(page) if found.key == key), None)

    def list(self, after: str | None = None) -> Iterator[StoredObject]:
        while True:
            page = self._page(after or "", self._page_size)
            yield from self._stored(page)
            if not page["IsTruncated"]:
                return
            after = page["Contents"][-1]["Key"].removeprefix(self._prefix)

    def now(self) -> datetime:
        def ask(_: float) -> datetime:
            page = self._client.list_objects_v2(Bucket=self._bucket, Prefix=self._prefix, MaxKeys=1)
            try:
                return parsedate_to_datetime(page["ResponseMetadata"]["HTTPHeaders"]["date"]).astimezone(UTC)
            except (KeyError, ValueError) as error:  # damaged on the way
                raise ConnectionAbortedError from error

        return self._asked("tell the time", ask)

    def link(self, key: str, seconds: int, *, filename: str) -> str:
        check_key(key)
        asked = {
            "Bucket": self._bucket,
            "Key": self._prefix + key,
            "ResponseContentDisposition": f'attachment; filename="{filename}"',
        }
        try:
            return self._client.generate_presigned_url("get_object", Params=asked, ExpiresIn=seconds)
        except FOREIGN as error:
            raise _unavailable("sign a link", error) from error

    def check(self) -> None:
        key = objects.check_key()
        try:
            self.put(key, b"", digest(b""))
        except ArtifactLost as error:
            raise unavailable("keep what is written to it", "lost at once") from error
        self.delete(key)

    def _page(self, after: str, size: int) -> ListObjectsV2OutputTypeDef:
        """The next objects by key. Every page names where it starts: a server's own cursor may expire meanwhile."""
        start = self._prefix + after
        return self._asked(
            "list its objects",
            lambda _: self._client.list_objects_v2(
                Bucket=self._bucket, Prefix=self._prefix, StartAfter=start, MaxKeys=size
            ),
        )

    def _stored(self, page: ListObjectsV2OutputTypeDef) -> Iterator[StoredObject]:
        for found in page.get("Contents", []):
            key = found["Key"].removeprefix(self._prefix)
            if is_key(key):
                yield StoredObject(key, found["Size"], found["LastModified"].astimezone(UTC))

    def _put_once(self, key: str, data: bytes, sha256: str, give_up: float) -> None:
        try:
            self._client.put_object(
                Bucket=self._bucket,
                Key=self._prefix + key,
                Body=data,
                ContentType="application/octet-stream",
                Metadata={"sha256": sha256},
                IfNoneMatch="*",
            )
        except _NotAnnounced:
            raise damaged(key) from None
        except ClientError as error:
            if _status(error) != HTTPStatus.PRECONDITION_FAILED:
                raise
            # Something is there: ours, when an earlier acknowledgement was lost. The bytes will tell.
            self._get_once(key, sha256, give_up)

    def _get_once(self, key: str, sha256: str, give_up: float) -> bytes:
        try:
            answer = self._client.get_object(Bucket=self._bucket, Key=self._prefix + key)
        except ClientError as error:
            if _code(error) == "NoSuchKey":
                raise missing(key) from error
            raise
        data = bytearray()
        # read1 takes what has arrived. The body's own read would wait for a full chunk, packet by packet, past any
        # deadline; entering the body gives the stream of urllib3 below it (boto3's type stubs say otherwise).
        with cast("AbstractContextManager[HTTPResponse]", answer["Body"]) as stream:
            while chunk := stream.read1(CHUNK):
                data += chunk
                if time.monotonic() > give_up:
                    raise TimeoutError
        if len(data) < answer.get("ContentLength", 0):
            raise ConnectionAbortedError  # cut off on the way, which says nothing about the object
        if digest(data) != sha256:
            raise _Damaged(key)
        return bytes(data)

    def _asked(self, what: str, ask: Callable[[float], T]) -> T:
        """What the server answers, asked again while that may help; every error is one of ours."""
        give_up = time.monotonic() + self._deadline
        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception(_may_pass),
            stop=tenacity.stop_any(
                tenacity.stop_after_attempt(self._tries), tenacity.stop_before_delay(self._deadline)
            ),
            wait=tenacity.wait_exponential(multiplier=self._pause),
            reraise=True,
        )
        try:
            return retrying(ask, give_up)
        except _Damaged as error:
            raise damaged(error.key) from None
        except FOREIGN as error:
            raise _unavailable(what, error) from error


def _check_signed(request: AWSPreparedRequest, **_: object) -> None:
    """Raises _NotAnnounced for bytes of another digest than the object's: signing them has told theirs already."""
    signed, announced = (request.headers.get(name) for name in ("X-Amz-Content-SHA256", "x-amz-meta-sha256"))
    if announced is not None and _text(signed) != _text(announced):
        raise _NotAnnounced


def _text(header: str | bytes | None) -> str | None:
    return header.decode() if isinstance(header, bytes) else header


class _NotAnnounced(Exception):
    """The bytes that shall be kept do not have the digest that the caller names; nothing was sent."""


class _Damaged(Exception):
    """The bytes that came do not have the digest; those that come next may."""

    def __init__(self, key: str) -> None:
        super().__init__(key)
        self.key = key


def _unavailable(what: str, error: Exception) -> ArtifactsUnavailable:
    reason = _code(error) if isinstance(error, ClientError) else type(error).__name__
    return unavailable(what, reason, CURES.get(reason))


def _may_pass(error: BaseException) -> bool:
    if isinstance(error, ClientError):
        status = _status(error)
        return status >= HTTPStatus.INTERNAL_SERVER_ERROR or status in PASSING_STATUS or _code(error) in PASSING_CODES
    return isinstance(error, (_Damaged, *FOREIGN))


def _status(error: ClientError) -> int:
    return error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)


def _code(error: ClientError) -> str:
    return error.response.get("Error", {}).get("Code", "no code")
