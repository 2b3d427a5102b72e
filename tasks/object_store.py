"""The bucket: list, read and write objects. The only module that imports boto3.

It works with Amazon S3 and with anything that speaks its protocol. Two habits make up for servers that speak less of
it: what a conditional request asks for is checked again on the answer, and newer checksum headers are sent to Amazon
only. Connection errors and throttling are repeated by botocore, an interrupted body is repeated here.
"""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, NoReturn, Self
from urllib.parse import urlsplit

import boto3
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
    PartialCredentialsError,
    ReadTimeoutError,
    ResponseStreamingError,
)
from botocore.exceptions import (
    ConnectionError as NoConnectionError,
)

from tasks.errors import OperatingError

CONNECT_TIMEOUT_S = 5
READ_TIMEOUT_S = 60
ATTEMPTS = 4

_MISSING = {"NoSuchKey", "NotFound", "404"}
_CHANGED = {"PreconditionFailed", "412"}
_NO_BUCKET = {"NoSuchBucket"}
_WRONG_CREDENTIALS = {"InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken", "AccessDenied"}
_OWNED = {"BucketAlreadyOwnedByYou", "BucketAlreadyExists"}
_CREDENTIAL_VARIABLES = "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (or AWS_PROFILE)"


class ObjectStoreError(OperatingError):
    """The bucket could not do what was asked; `reason` is one word for tables and counters."""

    reason = "fetch_failed"


class ObjectMissingError(ObjectStoreError):
    """There is no object with this key (any more)."""

    reason = "vanished"


class ObjectChangedError(ObjectStoreError):
    """The object was replaced: its ETag is not the one that was listed."""

    reason = "changed"


class _BrokenBodyError(Exception):
    """The answer ended before the object did; botocore repeats only requests that were not answered at all."""


@dataclass(frozen=True)
class ObjectInfo:
    """One object of a listing. `etag` is without quotes, `modified_at` in UTC."""

    key: str
    etag: str
    size_bytes: int
    modified_at: datetime


class ObjectStore:
    """One bucket. Safe to use from many threads; each process makes its own.

    Args:
        bucket: name of the bucket.
        endpoint_url: address of the server, None for Amazon S3. Credentials come from boto3's own chain.
        max_connections: how many requests may be under way at once.
    """

    def __init__(self, bucket: str, endpoint_url: str | None = None, max_connections: int = 16) -> None:
        self.bucket = bucket
        self.endpoint_url = endpoint_url
        # a session of its own: the default session that boto3.client() uses is not safe between threads
        self._client = boto3.session.Session().client(
            "s3", endpoint_url=endpoint_url, config=_client_config(endpoint_url, max_connections)
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def uri(self, key: str = "") -> str:
        """The name of an object for people, ``s3://bucket/key``."""
        return f"s3://{self.bucket}/{key}"

    def list_objects(self, prefix: str) -> Iterator[ObjectInfo]:
        """All objects whose key begins with `prefix`, in the order of their keys (UTF-8), page by page.

        Raises:
            ObjectStoreError: names the bucket, the prefix and the reason.
        """
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=prefix)
        try:
            for page in pages:
                yield from map(_object_info, page.get("Contents", []))
        except (ClientError, BotoCoreError) as error:
            self._fail("list", prefix, error)

    def get(self, key: str, etag: str | None = None) -> bytes:
        """The whole content of an object.

        Args:
            key: which object.
            etag: the version that was listed (without quotes); None takes whatever is there.

        Raises:
            ObjectMissingError: there is no such object.
            ObjectChangedError: the object has another ETag by now.
            ObjectStoreError: anything else, after repeated attempts. All name ``s3://bucket/key`` and the reason.
        """
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return self._get_once(key, etag)
            except _BrokenBodyError as error:
                if attempt == ATTEMPTS:
                    self._fail("read", key, error)
            except (ClientError, BotoCoreError) as error:
                self._fail("read", key, error)
        raise AssertionError("the last attempt returns or raises")

    def _get_once(self, key: str, etag: str | None) -> bytes:
        condition = {} if etag is None else {"IfMatch": f'"{etag}"'}
        answer = self._client.get_object(Bucket=self.bucket, Key=key, **condition)
        with closing(answer["Body"]) as body:
            found = answer["ETag"].strip('"')
            if etag is not None and found != etag:  # not every server heeds If-Match
                raise ObjectChangedError(f"{self.uri(key)}: changed since it was listed: ETag was {etag}, is {found}")
            try:
                data: bytes = body.read()
            except (IncompleteReadError, ResponseStreamingError, ReadTimeoutError) as error:
                raise _BrokenBodyError(f"the answer broke off: {error}") from error
        if len(data) != answer["ContentLength"]:
            raise _BrokenBodyError(f"{len(data)} of {answer['ContentLength']} bytes came")
        return data

    def put(self, key: str, data: bytes, content_type: str) -> str:
        """Write an object, replacing what was there; gives its ETag.

        Raises:
            ObjectStoreError: names ``s3://bucket/key`` and the reason.
        """
        try:
            answer = self._client.put_object(Bucket=self.bucket, Key=key, Body=data, ContentType=content_type)
        except (ClientError, BotoCoreError) as error:
            self._fail("write", key, error)
        return str(answer["ETag"]).strip('"')

    def exists(self, key: str) -> bool:
        """Whether there is an object with exactly this key.

        Raises:
            ObjectStoreError: names ``s3://bucket/key`` and the reason.
        """
        try:
            self._client.head_object(Bucket=self.bucket, Key=key)
        except ClientError as error:
            if _code(error) in _MISSING:
                return False
            self._fail("look for", key, error)
        except BotoCoreError as error:
            self._fail("look for", key, error)
        return True

    def create_bucket_if_missing(self) -> None:
        """Create the bucket unless it is there. For the embedded server; a plant's bucket is made by its owner.

        Raises:
            ObjectStoreError: names the bucket and the reason.
        """
        region = self._client.meta.region_name
        elsewhere = self.endpoint_url is None and region not in (None, "us-east-1", "aws-global")
        where = {"CreateBucketConfiguration": {"LocationConstraint": region}} if elsewhere else {}
        try:
            self._client.create_bucket(Bucket=self.bucket, **where)
        except ClientError as error:
            if _code(error) not in _OWNED:
                self._fail("create", "", error)
        except BotoCoreError as error:
            self._fail("create", "", error)
        self.check()  # a bucket of this name may belong to somebody else

    def check(self) -> None:
        """Prove that the server answers, the credentials are right and the bucket is there.

        Raises:
            ObjectStoreError: says which of the three is not so, and which environment variables to set.
        """
        try:  # not HEAD: its answer has no body, so it cannot say why it refuses
            self._client.list_objects_v2(Bucket=self.bucket, MaxKeys=1)
        except (ClientError, BotoCoreError) as error:
            self._fail("use", "", error)

    def _fail(self, action: str, key: str, error: Exception) -> NoReturn:
        code = _code(error)
        if key and code in _MISSING:
            raise ObjectMissingError(f"{self.uri(key)}: there is no such object") from error
        if code in _CHANGED:
            raise ObjectChangedError(f"{self.uri(key)}: changed since it was listed ({code})") from error
        raise ObjectStoreError(f"{self.uri(key)}: cannot {action} it: {self._explain(code, error)}") from error

    def _explain(self, code: str, error: Exception) -> str:
        server = self.endpoint_url or "Amazon S3"
        if isinstance(error, (NoCredentialsError, PartialCredentialsError)):
            return f"no complete S3 credentials for {server}; set {_CREDENTIAL_VARIABLES}"
        if code in _WRONG_CREDENTIALS:
            return f"{server} refuses the credentials ({error}); check {_CREDENTIAL_VARIABLES}, and the bucket's policy"
        if code in _NO_BUCKET:
            return f"{server} has no bucket {self.bucket!r}; create it or set INSPECTION_BUCKET"
        if isinstance(error, (NoConnectionError, HTTPClientError)):
            return f"no answer from {server} ({error}); is it running? set INSPECTION_S3_ENDPOINT_URL"
        return f"{server}: {error}"


def _client_config(endpoint_url: str | None, max_connections: int) -> Config:
    options: dict[str, Any] = {
        "connect_timeout": CONNECT_TIMEOUT_S,
        "read_timeout": READ_TIMEOUT_S,
        "retries": {"mode": "standard", "total_max_attempts": ATTEMPTS},
        "max_pool_connections": max_connections,
    }
    if endpoint_url is not None:
        # host names per bucket and the checksums that botocore 1.36 began to send are not understood everywhere
        options["s3"] = {"addressing_style": "path"}
        options["request_checksum_calculation"] = "when_required"
        options["response_checksum_validation"] = "when_required"
        if urlsplit(endpoint_url).hostname in ("127.0.0.1", "::1", "localhost"):
            options["proxies"] = {}  # a company's proxy cannot reach this machine
    return Config(**options)


def _object_info(entry: dict[str, Any]) -> ObjectInfo:
    return ObjectInfo(
        key=entry["Key"],
        etag=entry.get("ETag", "").strip('"'),
        size_bytes=entry["Size"],
        modified_at=entry["LastModified"].astimezone(UTC),
    )


def _code(error: Exception) -> str:
    """The S3 error code, or ``""`` where the error did not come from the server."""
    return str(error.response.get("Error", {}).get("Code", "")) if isinstance(error, ClientError) else ""
