"""Artifacts in an S3 bucket.

What boto3 leaves to its caller was measured against a real server: a flipped bit in an answer is returned silently, a
cut-off body is not fetched again, a slow drip outlives every timeout (they count per packet), and an upload whose
acknowledgement was lost is reported as failed although it happened. So every read is checked against the digest, there
is one deadline over everything, retries are decided here alone, and an upload has succeeded when its bytes can be read
back, whatever the server's answer to it was.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from http import HTTPStatus
from http.client import HTTPException
from typing import TYPE_CHECKING, TypeVar, cast

import boto3
import tenacity
from boto3.exceptions import Boto3Error
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, UndefinedModelAttributeError
from urllib3.exceptions import HTTPError

from service.adapters.objects import check_digest, check_key, damaged, digest, missing, unavailable
from service.domain.errors import ArtifactLost

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from mypy_boto3_s3 import S3Client
    from urllib3 import HTTPResponse

T = TypeVar("T")

# Everything that comes out of boto3, botocore and the HTTP client below them.
FOREIGN = (BotoCoreError, ClientError, Boto3Error, UndefinedModelAttributeError, HTTPError, HTTPException, OSError)
# Refusals that say nothing against the request itself. The codes: it came too slowly, or damaged.
PASSING_STATUS = (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.CONFLICT, HTTPStatus.TOO_MANY_REQUESTS)
PASSING_CODES = ("RequestTimeout", "XAmzContentSHA256Mismatch")
CHUNK = 65_536


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
        connect_timeout=connect_timeout,
        read_timeout=read_timeout,
        retries={"total_max_attempts": 1},  # S3Artifacts retries; two layers would multiply
        request_checksum_calculation="when_required",  # other servers than AWS store or refuse the trailers
        response_checksum_validation="when_required",
        max_pool_connections=32,
        s3={"addressing_style": "path" if endpoint else "auto"},
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
        raise unavailable("be set up", type(error).__name__) from error


class S3Artifacts:
    """ports.Artifacts in a bucket that exists. Threads and processes may share it.

    prefix: put before every key, such as "vectors/". tries, pause: how often a call asks the server, and seconds
    before it asks again (doubling). deadline: seconds after which it asks and reads no more.
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
    ) -> None:
        self._client = client
        self._bucket = bucket
        self._prefix = prefix
        self._tries = tries
        self._pause = pause
        self._deadline = deadline

    def put(self, key: str, data: bytes, sha256: str) -> None:
        check_digest(key, data, sha256)
        self._asked("keep", key, lambda give_up: self._put_once(key, data, sha256, give_up))

    def get(self, key: str, sha256: str) -> bytes:
        return self._asked("read", key, lambda give_up: self._get_once(key, sha256, give_up))

    def delete(self, key: str) -> None:
        self._asked("delete", key, lambda _: self._client.delete_object(Bucket=self._bucket, Key=self._prefix + key))

    def check(self) -> None:
        key = f"check-{uuid.uuid4().hex}"
        try:
            self.put(key, b"", digest(b""))
        except ArtifactLost as error:
            raise unavailable("keep what is written to it", "lost at once") from error
        self.delete(key)

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
            raise _Damaged
        return bytes(data)

    def _asked(self, verb: str, key: str, ask: Callable[[float], T]) -> T:
        """What the server answers, asked again while that may help; every error is one of ours."""
        check_key(key)
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
        except _Damaged:
            raise damaged(key) from None
        except FOREIGN as error:
            reason = _code(error) if isinstance(error, ClientError) else type(error).__name__
            raise unavailable(f"{verb} object {key}", reason) from error


class _Damaged(Exception):
    """The bytes that came do not have the digest; those that come next may."""


def _may_pass(error: BaseException) -> bool:
    if isinstance(error, ClientError):
        status = _status(error)
        return status >= HTTPStatus.INTERNAL_SERVER_ERROR or status in PASSING_STATUS or _code(error) in PASSING_CODES
    return isinstance(error, (_Damaged, *FOREIGN))


def _status(error: ClientError) -> int:
    return error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)


def _code(error: ClientError) -> str:
    return error.response.get("Error", {}).get("Code", "no code")
