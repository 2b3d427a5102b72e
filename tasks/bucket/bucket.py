"""The bucket: list, read and write objects. Only this package imports boto3 and obstore.

It works with Amazon S3 and with anything that speaks its protocol. Two habits make up for servers that speak less of
it: what a conditional request asks for is checked again on the answer, and newer checksum headers are sent to Amazon
only.

Every request may be repeated, because reading changes nothing and writing the same bytes twice is writing them once.
What may pass is tried again, `attempts` times in all (botocore's own repetitions are off), with waits that grow and
are random: no connection, no answer within the timeout, 429, 500, 502, 503, 504, an answer that breaks off or cannot be
understood, and bytes that are not the object's. What is certain is raised at once.

A night's images are read by obstore, which takes a small part of boto3's time for it (`get_listed`). It is asked once
and believed only if all is well; whatever else happens, boto3 asks again, names it and repeats it.
"""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from threading import Lock
from types import TracebackType
from typing import Any, Self, TypeVar

from botocore.client import BaseClient
from botocore.exceptions import BotoCoreError, ClientError
from tenacity import RetryCallState, Retrying, retry_if_exception, wait_random_exponential

from tasks.bucket.client import client_config, s3_client
from tasks.bucket.failures import (
    ERRORS,
    EXPIRED,
    BadAnswerError,
    ObjectChangedError,
    ObjectMissingError,
    ObjectStoreError,
    WrongBytesError,
    code_of,
    failure_of,
    may_pass,
    one_line,
)
from tasks.bucket.fast_transfers import FastTransfers
from tasks.bucket.habits import EtagCheck, Outage

FIRST_WAIT_S = 0.5  # at most; three times as long before each further attempt: one hiccup costs little time,
LONGEST_WAIT_S = 15  # and five attempts together outlast a restart of the server more often than not
RENEW_EVERY_S = 5

_OWNED = {"BucketAlreadyOwnedByYou", "BucketAlreadyExists"}

_log = logging.getLogger(__name__)
_Answer = TypeVar("_Answer")


@dataclass(frozen=True)
class ObjectInfo:
    """One object of a listing. `etag` is without quotes, `modified_at` in UTC."""

    key: str
    etag: str
    size_bytes: int
    modified_at: datetime


class ObjectStore:
    """One bucket. Safe to use from many threads; each process makes its own.

    Credentials come from boto3's own chain. When the server says that they have expired, the chain is asked again, so
    that keys which an operator renewed in a profile reach a run that is under way.

    Args:
        bucket: name of the bucket.
        endpoint_url: address of the server, None for Amazon S3.
        max_connections: how many requests may be under way at once.
        read_timeout_s: how long the server may be silent, before its answer and within it.
        attempts: how often a request is sent before it counts as failed.

    Raises:
        ObjectStoreError: if boto3 cannot use its configuration or the endpoint's address.
    """

    def __init__(
        self,
        bucket: str,
        endpoint_url: str | None = None,
        max_connections: int = 16,
        *,
        read_timeout_s: float = 30.0,
        attempts: int = 5,
    ) -> None:
        self.bucket = bucket
        self.endpoint_url = endpoint_url
        self._attempts = attempts
        self._config = client_config(endpoint_url, max_connections, read_timeout_s)
        self._outage = Outage()
        self._etags = EtagCheck()
        self._renewing = Lock()
        self._renewed_at = float("-inf")
        self._client, self._fast = self._connect()

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
        """All objects whose key begins with `prefix`, in the order of their keys (UTF-8), page by page."""
        token = ""
        while True:
            page = self._list_page(prefix, token)
            yield from map(_object_info, page.get("Contents", []))
            if not page.get("IsTruncated"):
                return
            if page.get("NextContinuationToken", "") in ("", token):
                raise ObjectStoreError(f"{self.uri(prefix)}: cannot list it: the server gives the same page again")
            token = page["NextContinuationToken"]

    def _list_page(self, prefix: str, token: str) -> dict[str, Any]:
        where = {"ContinuationToken": token} if token else {}

        def list_page(client: BaseClient) -> dict[str, Any]:
            page: dict[str, Any] = client.list_objects_v2(Bucket=self.bucket, Prefix=prefix, **where)
            if "IsTruncated" not in page:  # botocore takes an answer that broke off before its body for an empty page
                raise BadAnswerError("a listing without an end")
            return page

        return self._request("list", prefix, list_page)

    def get(self, key: str, etag: str | None = None) -> bytes:
        """The whole content of an object.

        Args:
            key: which object.
            etag: the version that was listed (without quotes); None takes whatever is there.

        Raises:
            ObjectMissingError: there is no such object.
            ObjectChangedError: the object has another ETag by now.
            ObjectDeniedError: the server refuses to show it.
            ObjectCorruptedError: other bytes come than the checksum belongs to, at every attempt.
            ObjectStoreError: anything else, after repeated attempts. All name ``s3://bucket/key`` and the reason.
        """
        condition = {} if etag is None else {"IfMatch": f'"{etag}"'}
        came: set[str] = set()

        def read(client: BaseClient) -> bytes:
            answer = client.get_object(Bucket=self.bucket, Key=key, **condition)
            with closing(answer["Body"]) as body:
                self._check_version(key, etag, answer)
                data: bytes = body.read()
            self._check_content(key, data, answer, came)
            return data

        return self._request("read", key, read)

    def get_listed(self, key: str, etag: str) -> bytes:
        """`get` for many objects, at a fraction of its cost: the version that was listed, or the same errors."""
        fast = self._fast
        if self._outage.begins() or not fast.takes(key):
            return self.get(key, etag)
        data = fast.read(key, etag)
        if data is not None and self._etags.accept(self.uri(key), etag, data, set()):
            fast.note(needless=False)
            return data
        data = self.get(key, etag)
        fast.note(needless=True)
        return data

    def _check_version(self, key: str, etag: str | None, answer: dict[str, Any]) -> None:
        found = _answered_etag(answer)
        if etag is not None and found != etag:  # not every server heeds If-Match
            raise ObjectChangedError(f"{self.uri(key)}: changed since it was listed: ETag was {etag}, is {found}")

    def _check_content(self, key: str, data: bytes, answer: dict[str, Any], came: set[str]) -> None:
        chunked = "transfer-encoding" in answer["ResponseMetadata"]["HTTPHeaders"]
        expected = answer.get("ContentLength", len(data) if chunked else None)
        if len(data) != expected:
            raise BadAnswerError(f"{len(data)} of {expected} bytes came")
        encrypted = "SSECustomerAlgorithm" in answer or answer.get("ServerSideEncryption", "").startswith("aws:kms")
        if not encrypted and not self._etags.accept(self.uri(key), _answered_etag(answer), data, came):
            raise WrongBytesError

    def put(self, key: str, data: bytes, content_type: str) -> str:
        """Write an object, replacing what was there; gives its ETag."""

        def write(client: BaseClient) -> str:
            return _answered_etag(client.put_object(Bucket=self.bucket, Key=key, Body=data, ContentType=content_type))

        return self._request("write", key, write)

    def put_one_of_many(self, key: str, data: bytes, content_type: str) -> str:
        """`put` for many objects, at a fraction of its cost: the same result, or the same errors."""
        fast = self._fast
        if self._outage.begins() or not fast.takes(key):
            return self.put(key, data, content_type)
        etag = fast.write(key, data, content_type)
        if etag is not None:
            fast.note(needless=False)
            return etag
        etag = self.put(key, data, content_type)
        fast.note(needless=True)
        return etag

    def exists(self, key: str) -> bool:
        """True if there is an object with exactly this key."""
        try:
            self._request("look for", key, lambda client: client.head_object(Bucket=self.bucket, Key=key))
        except ObjectMissingError:
            return False
        return True

    def create_bucket_if_missing(self) -> None:
        """Create the bucket unless it is there. For the embedded server; a plant's bucket is made by its owner."""

        def create(client: BaseClient) -> None:
            region = client.meta.region_name
            elsewhere = self.endpoint_url is None and region not in (None, "us-east-1", "aws-global")
            where = {"CreateBucketConfiguration": {"LocationConstraint": region}} if elsewhere else {}
            try:
                client.create_bucket(Bucket=self.bucket, **where)
            except ClientError as error:
                if code_of(error) not in _OWNED:
                    raise

        self._request("create", "", create)
        self.check()  # a bucket of this name may belong to somebody else

    def check(self) -> None:
        """Prove that the server answers, the credentials are right and the bucket is there.

        Raises:
            ObjectStoreError: says which of the three is not so, and which environment variables to set.
        """
        # not HEAD: its answer has no body, so it cannot say why it refuses
        self._request("use", "", lambda client: client.list_objects_v2(Bucket=self.bucket, MaxKeys=1))

    def _request(self, action: str, key: str, ask: Callable[[BaseClient], _Answer]) -> _Answer:
        """Ask until there is an answer or a certain refusal, at most `attempts` times."""
        retrying = Retrying(
            stop=self._is_enough,
            wait=wait_random_exponential(multiplier=FIRST_WAIT_S, exp_base=3, max=LONGEST_WAIT_S),
            retry=retry_if_exception(may_pass),
            reraise=True,
        )
        try:
            with self._outage.turn():
                answer: _Answer = retrying(self._ask, ask)
                return answer
        except ERRORS as error:
            attempts, silent_s = retrying.statistics.get("attempt_number", 0), self._config.read_timeout
            failure = failure_of(action, self.bucket, key, error, attempts, self.endpoint_url, silent_s)
        raise failure  # outside of `except`: the library's error may hold what must not reach a log

    def _is_enough(self, state: RetryCallState) -> bool:
        return state.attempt_number >= self._attempts or self._outage.lasts()

    def _ask(self, ask: Callable[[BaseClient], _Answer]) -> _Answer:
        try:
            answer = self._ask_unexpired(ask)
        except ValueError as error:  # botocore reads half a date or number in a head that broke off
            self._outage.note(answered=False)
            raise BadAnswerError(one_line(error)) from error
        except Exception as error:
            self._outage.note(answered=not may_pass(error))
            raise
        self._outage.note(answered=True)
        return answer

    def _ask_unexpired(self, ask: Callable[[BaseClient], _Answer]) -> _Answer:
        client = self._client
        try:
            return ask(client)
        except ClientError as error:
            if code_of(error) not in EXPIRED:
                raise
            expired = error
        if self._renewed(client) is client:
            raise expired
        return ask(self._client)

    def _renewed(self, expired: BaseClient) -> BaseClient:
        """A client with credentials read anew, unless that was done just now; other threads still use the old one."""
        with self._renewing:
            if self._client is expired and time.monotonic() - self._renewed_at >= RENEW_EVERY_S:
                _log.warning("%s: the credentials have expired; asking for new ones", self.uri())
                self._renewed_at = time.monotonic()
                self._client, self._fast = self._connect()
            return self._client

    def _connect(self) -> tuple[BaseClient, "FastTransfers"]:
        try:
            session, client = s3_client(self.endpoint_url, self._config)
            return client, FastTransfers(self.bucket, self.endpoint_url, session, client)
        except (BotoCoreError, ValueError) as error:
            failure = failure_of("use", self.bucket, "", error, 1, self.endpoint_url)
        raise failure


def _object_info(entry: dict[str, Any]) -> ObjectInfo:
    if missing := [name for name in ("ETag", "Size", "LastModified") if entry.get(name) in (None, "")]:
        raise ObjectStoreError(
            f"{entry['Key']!r}: the server lists it without {' and '.join(missing)}, by which versions of an object "
            "are told apart; take a server that keeps to S3's ListObjectsV2"
        )
    return ObjectInfo(
        key=entry["Key"],
        etag=entry["ETag"].strip('"'),
        size_bytes=entry["Size"],
        modified_at=entry["LastModified"].astimezone(UTC),
    )


def _answered_etag(answer: dict[str, Any]) -> str:
    """The ETag of an answer, which urllib3 takes for whole even when its head broke off."""
    etag = str(answer.get("ETag", ""))
    if not etag.strip('"') or etag.count('"') == 1:
        raise BadAnswerError("an answer without a whole ETag")
    return etag.strip('"')
