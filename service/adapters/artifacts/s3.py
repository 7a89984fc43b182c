"""Artifact store in an S3 bucket.

boto3 leaves the following to its caller, as measured against a real server: a flipped bit in a response goes unnoticed,
a truncated body is not fetched again, a slow drip outlives every timeout (they count per packet), and an upload whose
acknowledgement was lost is reported as failed although it succeeded. So every read is checked against the digest, one
deadline covers the whole call, and only this module retries. Uploads are signed over their bytes, so the server rejects
corrupt ones. An accepted upload has succeeded, and so has one without a response if its bytes can be read back.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import partial
from http import HTTPStatus
from http.client import HTTPException
from typing import TYPE_CHECKING, TypeVar, cast

import boto3
import tenacity
from boto3.exceptions import Boto3Error
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, UndefinedModelAttributeError
from urllib3.exceptions import HTTPError

from vlibrary.adapters.artifacts.checks import (
    check_key,
    corrupt_object,
    digest,
    is_key,
    missing_object,
    store_unavailable,
)
from vlibrary.domain.errors import ArtifactsUnavailable
from vlibrary.domain.ports.artifacts import StoredObject

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from botocore.awsrequest import AWSPreparedRequest
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import ListObjectsV2OutputTypeDef
    from urllib3 import HTTPResponse

T = TypeVar("T")

# All exceptions of boto3, botocore and their HTTP client.
FOREIGN = (BotoCoreError, ClientError, Boto3Error, UndefinedModelAttributeError, HTTPError, HTTPException, OSError)
# Rejections that a retry can fix. The codes: the request arrived too slowly, or corrupt.
RETRYABLE_STATUS = (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.CONFLICT, HTTPStatus.TOO_MANY_REQUESTS)
RETRYABLE_CODES = ("RequestTimeout", "XAmzContentSHA256Mismatch")
CHUNK = 65_536
# Errors that a retry does not fix, by the code of the server or of boto3.
_BUCKET = "Check the bucket's name in VLIBRARY_ARTIFACTS (or VLIBRARY_SNAPSHOTS), and VLIBRARY_S3_ENDPOINT_URL."
_ACCESS = "Check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and their permissions on this bucket."
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
    """Return a client for S3Artifacts. endpoint: None for AWS. region, access_key: None to use boto3's settings.

    read_timeout: for one packet. Raises ArtifactsUnavailable for invalid settings.
    """
    config = Config(
        signature_version="s3v4",  # otherwise URLs get a version 2 signature, which AWS and others reject
        connect_timeout=connect_timeout,
        read_timeout=read_timeout,
        retries={"total_max_attempts": 1},  # S3Artifacts retries, and two layers would multiply
        request_checksum_calculation="when_required",  # servers other than AWS store or reject the trailers
        response_checksum_validation="when_required",
        max_pool_connections=32,
        # Also over TLS, which a proxy may terminate before the server.
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
    """ports.Artifacts in an existing bucket; threads and processes may share it.

    prefix: prepended to every key, such as "vectors/". tries, pause: requests per call, and seconds before the first
    retry (doubling). deadline: seconds after which a call neither sends nor reads any more. page: objects per request
    of a listing.
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
        self._call(f"store object {key}", lambda give_up: self._put_once(key, data, sha256, give_up))

    def get(self, key: str, sha256: str) -> bytes:
        check_key(key)
        return self._call(f"read object {key}", lambda give_up: self._get_once(key, sha256, give_up))

    def delete(self, key: str) -> None:
        check_key(key)
        name = self._prefix + key
        self._call(f"delete object {key}", lambda _: self._client.delete_object(Bucket=self._bucket, Key=name))

    def stat(self, key: str) -> StoredObject | None:
        # By listing, since HEAD has no body to distinguish a missing object from a missing bucket.
        check_key(key)
        page = self._list_page(f"look up object {key}", key, size=1)
        return next((found for found in self._objects(page) if found.key == key), None)

    def list(self, after: str | None = None) -> Iterator[StoredObject]:
        while True:
            # Each page starts after a key, because the server's own cursor may expire.
            page = self._list_page("list its objects", after=after or "", size=self._page_size)
            yield from self._objects(page)
            if not page["IsTruncated"]:
                return
            after = page["Contents"][-1]["Key"].removeprefix(self._prefix)

    def now(self) -> datetime:
        def request(_: float) -> datetime:
            page = self._client.list_objects_v2(Bucket=self._bucket, Prefix=self._prefix, MaxKeys=1)
            try:
                return parsedate_to_datetime(page["ResponseMetadata"]["HTTPHeaders"]["date"]).astimezone(UTC)
            except (KeyError, ValueError) as error:  # corrupted in transit
                raise ConnectionAbortedError from error

        return self._call("return its time", request)

    def link(self, key: str, seconds: int, *, filename: str) -> str:
        check_key(key)
        params = {
            "Bucket": self._bucket,
            "Key": self._prefix + key,
            "ResponseContentDisposition": f'attachment; filename="{filename}"',
        }
        try:
            return self._client.generate_presigned_url("get_object", Params=params, ExpiresIn=seconds)
        except FOREIGN as error:
            raise _unavailable("sign a link", error) from error

    def check(self) -> None:
        self._list_page("be read", size=1)

    def _list_page(self, action: str, prefix: str = "", *, after: str = "", size: int) -> ListObjectsV2OutputTypeDef:
        prefix, start = self._prefix + prefix, self._prefix + after
        query = partial(self._client.list_objects_v2, Bucket=self._bucket, Prefix=prefix, StartAfter=start)
        return self._call(action, lambda _: query(MaxKeys=size))

    def _objects(self, page: ListObjectsV2OutputTypeDef) -> Iterator[StoredObject]:
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
        except _DigestMismatch:
            raise corrupt_object(key) from None
        except ClientError as error:
            if _status(error) != HTTPStatus.PRECONDITION_FAILED:
                raise
            # The key exists; it is this upload if an earlier acknowledgement was lost, so compare the bytes.
            self._get_once(key, sha256, give_up)

    def _get_once(self, key: str, sha256: str, give_up: float) -> bytes:
        try:
            answer = self._client.get_object(Bucket=self._bucket, Key=self._prefix + key)
        except ClientError as error:
            if _code(error) == "NoSuchKey":
                raise missing_object(key) from error
            raise
        data = bytearray()
        # read1 returns what has arrived; the body's own read would wait for a full chunk, past any deadline. Entering
        # the body returns the urllib3 stream below it (boto3's type stubs are wrong here).
        with cast("AbstractContextManager[HTTPResponse]", answer["Body"]) as stream:
            while chunk := stream.read1(CHUNK):
                data += chunk
                if time.monotonic() > give_up:
                    raise TimeoutError
        if len(data) < answer.get("ContentLength", 0):
            raise ConnectionAbortedError  # truncated in transit; the object may be intact
        if digest(data) != sha256:
            raise _CorruptResponse(key)
        return bytes(data)

    def _call(self, action: str, request: Callable[[float], T]) -> T:
        """Return the response, retrying where that can help; all errors become domain errors."""
        give_up = time.monotonic() + self._deadline
        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception(_is_retryable),
            stop=tenacity.stop_any(
                tenacity.stop_after_attempt(self._tries), tenacity.stop_before_delay(self._deadline)
            ),
            wait=tenacity.wait_exponential(multiplier=self._pause),
            reraise=True,
        )
        try:
            return retrying(request, give_up)
        except _CorruptResponse as error:
            raise corrupt_object(error.args[0]) from None
        except FOREIGN as error:
            raise _unavailable(action, error) from error


def _check_signed(request: AWSPreparedRequest, **_: object) -> None:
    """Raise _DigestMismatch unless the signed digest of the body is the object's, so that it is hashed only once."""
    signed, expected = (request.headers.get(name) for name in ("X-Amz-Content-SHA256", "x-amz-meta-sha256"))
    if expected is not None and _text(signed) != _text(expected):
        raise _DigestMismatch


def _text(header: str | bytes | None) -> str | None:
    return header.decode() if isinstance(header, bytes) else header


class _DigestMismatch(Exception):
    """The bytes to be stored do not have the digest that the caller passed; nothing was sent."""


class _CorruptResponse(Exception):
    """The received bytes of the object with this key do not have the digest; a retry may succeed."""


def _unavailable(action: str, error: Exception) -> ArtifactsUnavailable:
    reason = _code(error) if isinstance(error, ClientError) else type(error).__name__
    return store_unavailable(action, reason, CURES.get(reason))


def _is_retryable(error: BaseException) -> bool:
    if isinstance(error, ClientError):
        status = _status(error)
        return (
            status >= HTTPStatus.INTERNAL_SERVER_ERROR or status in RETRYABLE_STATUS or _code(error) in RETRYABLE_CODES
        )
    return isinstance(error, (_CorruptResponse, *FOREIGN))


def _status(error: ClientError) -> int:
    return error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)


def _code(error: ClientError) -> str:
    return error.response.get("Error", {}).get("Code", "no code")
