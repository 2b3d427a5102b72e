"""The bucket: list, read and write objects. The only module that imports boto3 and obstore.

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
import re
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import md5
from threading import Lock
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import urlsplit
from urllib.request import getproxies

import boto3
import botocore.session
from botocore.client import BaseClient
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    CredentialRetrievalError,
    FlexibleChecksumError,
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
    PartialCredentialsError,
    ProfileNotFound,
    ReadTimeoutError,
    ResponseStreamingError,
)
from botocore.exceptions import (
    ConnectionError as NoConnectionError,
)
from botocore.parsers import ResponseParserError
from botocore.utils import parse_timestamp
from obstore.store import S3Store
from tenacity import RetryCallState, Retrying, retry_if_exception, wait_random_exponential
from urllib3.exceptions import HTTPError

from tasks.errors import OperatingError

CONNECT_TIMEOUT_S = 5
FIRST_WAIT_S = 0.5  # at most; three times as long before each further attempt: one hiccup costs little time,
LONGEST_WAIT_S = 15  # and five attempts together outlast a restart of the server more often than not
OUTAGE_S = 60
OUTAGE_FAILURES = 20
RENEW_EVERY_S = 5
FOREIGN_ETAGS = 3
NEEDLESS_ATTEMPTS = 10
CREDENTIALS_KEPT = timedelta(minutes=10)  # boto3 renews what expires at least so long before

_MISSING = {"NoSuchKey", "NotFound", "404"}
_CHANGED = {"PreconditionFailed", "412"}
_NO_BUCKET = {"NoSuchBucket"}
_EXPIRED = {"ExpiredToken", "ExpiredTokenException", "RequestExpired", "TokenRefreshRequired"}
_WRONG_CREDENTIALS = {"InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken"}
_FORBIDDEN = {"AccessDenied", "AllAccessDisabled", "Forbidden", "403"}
_WRONG_CLOCK = {"RequestTimeTooSkewed"}
_OWNED = {"BucketAlreadyOwnedByYou", "BucketAlreadyExists"}
_PASSING_STATUS = {429, 500, 502, 503, 504}
_PASSING = {  # some servers send these with another status
    *("SlowDown", "Throttling", "ThrottlingException", "RequestThrottled", "RequestLimitExceeded", "TooManyRequests"),
    *("BandwidthLimitExceeded", "RequestTimeout", "InternalError", "ServiceUnavailable", "OperationAborted"),
}
_CREDENTIAL_VARIABLES = "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (or AWS_PROFILE)"
_MD5 = re.compile(r"[0-9a-f]{32}")
_PLAIN_KEY = re.compile(r"(?!\.{1,2}(/|$))[\w .,+=@~()!-]+(/(?!\.{1,2}(/|$))[\w .,+=@~()!-]+)*")
_SECRETS = re.compile(  # the password in an address; what a server may repeat of a request's headers
    r"(://)[^/\s@]+(?=@)|((?:credential|signature|signatureprovided|security-token)[\"']*\s*[=:>]\s*[\"']*)[^\s&,;<\"']+",
    re.IGNORECASE,
)

_log = logging.getLogger(__name__)
_Answer = TypeVar("_Answer")


class ObjectStoreError(OperatingError):
    """The bucket could not do what was asked; `reason` is one word for tables and counters."""

    reason = "fetch_failed"


class ObjectMissingError(ObjectStoreError):
    """There is no object with this key (any more)."""

    reason = "vanished"


class ObjectChangedError(ObjectStoreError):
    """The object was replaced: its ETag is not the one that was listed."""

    reason = "changed"


class ObjectDeniedError(ObjectStoreError):
    """The server refuses: no, wrong or expired credentials, or they do not allow this."""

    reason = "access_denied"


class ObjectCorruptedError(ObjectStoreError):
    """The bytes that come are not those that the object's checksum belongs to."""

    reason = "corrupted"


class _BadAnswerError(Exception):
    """The answer is not what S3 answers."""


class _WrongBytesError(Exception):
    """The bytes do not belong to the ETag."""


class _OutageError(Exception):
    """Nobody gets an answer, so that this request was not sent."""


_NO_CREDENTIALS = (NoCredentialsError, PartialCredentialsError, CredentialRetrievalError)
_WRONG_BYTES = (_WrongBytesError, FlexibleChecksumError)
_BROKEN_ANSWERS = (_BadAnswerError, ResponseParserError, IncompleteReadError, ResponseStreamingError, *_WRONG_BYTES)
_NO_ANSWERS = (HTTPClientError, NoConnectionError, HTTPError)
_ERRORS = (ClientError, BotoCoreError, HTTPError, ResponseParserError, _BadAnswerError, _WrongBytesError, _OutageError)


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
        self._config = _client_config(endpoint_url, max_connections, read_timeout_s)
        self._outage = _Outage()
        self._etags = _EtagCheck()
        self._renewing = Lock()
        self._renewed_at = float("-inf")
        logging.getLogger("botocore").setLevel(logging.WARNING)  # at DEBUG it writes signatures and session tokens
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
        """All objects whose key begins with `prefix`, in the order of their keys (UTF-8), page by page.

        Raises:
            ObjectStoreError: names the bucket, the prefix and the reason.
        """
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
                raise _BadAnswerError("a listing without an end")
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
            raise _BadAnswerError(f"{len(data)} of {expected} bytes came")
        encrypted = "SSECustomerAlgorithm" in answer or answer.get("ServerSideEncryption", "").startswith("aws:kms")
        if not encrypted and not self._etags.accept(self.uri(key), _answered_etag(answer), data, came):
            raise _WrongBytesError

    def put(self, key: str, data: bytes, content_type: str) -> str:
        """Write an object, replacing what was there; gives its ETag.

        Raises:
            ObjectStoreError: names ``s3://bucket/key`` and the reason.
        """

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
        """Whether there is an object with exactly this key.

        Raises:
            ObjectStoreError: names ``s3://bucket/key`` and the reason.
        """
        try:
            self._request("look for", key, lambda client: client.head_object(Bucket=self.bucket, Key=key))
        except ObjectMissingError:
            return False
        return True

    def create_bucket_if_missing(self) -> None:
        """Create the bucket unless it is there. For the embedded server; a plant's bucket is made by its owner.

        Raises:
            ObjectStoreError: names the bucket and the reason.
        """

        def create(client: BaseClient) -> None:
            region = client.meta.region_name
            elsewhere = self.endpoint_url is None and region not in (None, "us-east-1", "aws-global")
            where = {"CreateBucketConfiguration": {"LocationConstraint": region}} if elsewhere else {}
            try:
                client.create_bucket(Bucket=self.bucket, **where)
            except ClientError as error:
                if _code(error) not in _OWNED:
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
            retry=retry_if_exception(_may_pass),
            reraise=True,
        )
        try:
            with self._outage.turn():
                return retrying(self._ask, ask)
        except _ERRORS as error:
            failure = self._failure(action, key, error, retrying.statistics.get("attempt_number", 0))
        raise failure  # outside of `except`: the library's error may hold what must not reach a log

    def _is_enough(self, state: RetryCallState) -> bool:
        return state.attempt_number >= self._attempts or self._outage.lasts()

    def _ask(self, ask: Callable[[BaseClient], _Answer]) -> _Answer:
        try:
            answer = self._ask_unexpired(ask)
        except ValueError as error:  # botocore reads half a date or number in a head that broke off
            self._outage.note(answered=False)
            raise _BadAnswerError(_text(error)) from error
        except Exception as error:
            self._outage.note(answered=not _may_pass(error))
            raise
        self._outage.note(answered=True)
        return answer

    def _ask_unexpired(self, ask: Callable[[BaseClient], _Answer]) -> _Answer:
        client = self._client
        try:
            return ask(client)
        except ClientError as error:
            if _code(error) not in _EXPIRED:
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

    def _connect(self) -> tuple[BaseClient, "_FastTransfers"]:
        try:
            # a session of its own: the default session that boto3.client() uses is not safe between threads
            core = botocore.session.Session()
            core.get_component("response_parser_factory").set_parser_defaults(timestamp_parser=_parse_time)
            session = boto3.session.Session(botocore_session=core)
            client = session.client("s3", endpoint_url=self.endpoint_url, config=self._config)
            return client, _FastTransfers(self.bucket, self.endpoint_url, session, client)
        except (BotoCoreError, ValueError) as error:
            failure = self._failure("use", "", error, attempts=1)
        raise failure

    def _failure(self, action: str, key: str, error: Exception, attempts: int) -> ObjectStoreError:
        code = _code(error)
        if key and code in _MISSING:
            return ObjectMissingError(f"{self.uri(key)}: there is no such object")
        if code in _CHANGED:
            return ObjectChangedError(f"{self.uri(key)}: changed since it was listed ({code})")
        times = f" in {attempts} attempts" if attempts > 1 else ""
        kind = _kind(code, error)
        return kind(f"{self.uri(key)}: cannot {action} it{times}: {self._explain(code, error)}")

    def _explain(self, code: str, error: Exception) -> str:
        server = _text(self.endpoint_url or "Amazon S3")
        if isinstance(error, _OutageError):
            return f"{server} has not answered anybody for {OUTAGE_S} s and more; is it running? run again when it is"
        if isinstance(error, CredentialRetrievalError):  # its text is what a program wrote that prints keys
            return f"the profile's credential process failed; try it by hand, or set {_CREDENTIAL_VARIABLES}"
        if isinstance(error, (ProfileNotFound, ValueError)):  # boto3 calls an address that is none a ValueError
            return f"{_text(error)}; check AWS_PROFILE and INSPECTION_S3_ENDPOINT_URL"
        if isinstance(error, _NO_CREDENTIALS):
            return f"no complete S3 credentials for {server}; set {_CREDENTIAL_VARIABLES}"
        if isinstance(error, _WRONG_BYTES):
            return f"the bytes from {server} do not belong to its ETag or checksum; if that stays, upload it again"
        return self._explain_code(server, code, error) or self._explain_no_answer(server, error)

    def _explain_code(self, server: str, code: str, error: Exception) -> str | None:
        if code in _EXPIRED:
            return f"the credentials for {server} have expired ({code}); renew {_CREDENTIAL_VARIABLES} and run again"
        if code in _WRONG_CREDENTIALS | _FORBIDDEN:
            # without the right to list, S3 denies access to what is not there
            return (
                f"{server} refuses the credentials ({_text(error)}); check {_CREDENTIAL_VARIABLES}, and the bucket's "
                "policy for this key"
            )
        if code in _WRONG_CLOCK:
            return f"this machine's clock and that of {server} differ ({code}); set the clock"
        if code in _NO_BUCKET:
            return f"{server} has no bucket {self.bucket!r}; create it or set INSPECTION_BUCKET"
        if code and _may_pass(error):
            return f"{server} is overloaded or broken ({_text(error)}); run again when it is well"
        return None

    def _explain_no_answer(self, server: str, error: Exception) -> str:
        if isinstance(error, ReadTimeoutError):
            silent_s = self._config.read_timeout
            return f"no answer from {server}, or no end of one, for {silent_s:g} s; run again when it is well"
        if isinstance(error, _BROKEN_ANSWERS):
            return f"a broken answer from {server} ({_text(error)}); run again when it is well"
        if isinstance(error, _NO_ANSWERS):
            return f"no answer from {server} ({_text(error)}); is it running? set INSPECTION_S3_ENDPOINT_URL"
        return f"{server}: {_text(error)}"


class _Outage:
    """Whether the server leaves everybody without an answer, for so long that no further request should wait for it.

    In a short outage each request waits out its own attempts. After `OUTAGE_S` and `OUTAGE_FAILURES` attempts in a row
    without one answer, a request gets one attempt, and while one is under way the others fail unsent: ten thousand
    images of a night then cost a few timeouts, not ten thousand times five. The first answer ends it. botocore's own
    quota is spent after some 35 attempts, which 16 threads make in a second.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._under_way = Lock()
        self._failures = 0
        self._since = 0.0

    def note(self, *, answered: bool) -> None:
        with self._lock:
            if answered:
                self._failures = 0
                return
            if self._failures == 0:
                self._since = time.monotonic()
            self._failures += 1

    def begins(self) -> bool:
        """Whether the latest attempt of all stayed without an answer."""
        return self._failures > 0

    def lasts(self) -> bool:
        with self._lock:
            return self._failures >= OUTAGE_FAILURES and time.monotonic() - self._since >= OUTAGE_S

    @contextmanager
    def turn(self) -> Iterator[None]:
        if not self.lasts():
            yield
            return
        if not self._under_way.acquire(blocking=False):
            raise _OutageError
        try:
            yield
        finally:
            self._under_way.release()


class _FastTransfers:
    """Reads and writes whole objects through obstore, or gives up without a reason: one attempt, for plain keys.

    obstore alters or refuses some keys (``a//b``, ``..``), knows nothing of boto3's proxies, and does not tell whether
    Amazon has encrypted an object, so that its ETag is no MD5. All that is left to boto3; where boto3 succeeds
    `NEEDLESS_ATTEMPTS` times in a row after this has failed, the server and obstore do not go together, and it ends.

    Args:
        bucket: name of the bucket.
        endpoint_url: address of the server, None for Amazon S3.
        session: whose credentials are used, renewed by boto3 where they expire.
        client: whose region and timeouts are used.
    """

    def __init__(
        self, bucket: str, endpoint_url: str | None, session: boto3.session.Session, client: BaseClient
    ) -> None:
        self._needless = 0
        self._store: S3Store | None = None
        self._credentials = session.get_credentials()
        parts = urlsplit(endpoint_url or "")
        if self._credentials is None or "@" in parts.netloc or getproxies():
            return
        config = client.meta.config
        region = client.meta.region_name
        address: Any = {} if endpoint_url is None else {"endpoint": endpoint_url, "virtual_hosted_style_request": False}
        try:
            self._store = S3Store(
                bucket,
                region="us-east-1" if region in (None, "aws-global") else region,
                client_options={
                    "allow_http": parts.scheme == "http",
                    "connect_timeout": timedelta(seconds=config.connect_timeout),
                    "read_timeout": timedelta(seconds=config.read_timeout),
                    "timeout": timedelta(days=1),  # of the whole request: a large image may come slowly
                },
                retry_config={"max_retries": 0},
                credential_provider=self._current,
                **address,
            )
        except Exception:  # boto3 does its work
            _log.info("s3://%s: obstore cannot be used", bucket)

    def _current(self) -> Any:
        frozen = self._credentials.get_frozen_credentials()
        return {
            "access_key_id": frozen.access_key,
            "secret_access_key": frozen.secret_key,
            "token": frozen.token,
            "expires_at": datetime.now(UTC) + CREDENTIALS_KEPT,
        }

    def takes(self, key: str) -> bool:
        """Whether it is worth while to ask for this key."""
        return self._store is not None and self._needless < NEEDLESS_ATTEMPTS and bool(_PLAIN_KEY.fullmatch(key))

    def read(self, key: str, etag: str) -> bytes | None:
        """The object's bytes, all of them and of this version by what the server says; None for whatever else."""
        assert self._store is not None
        try:
            answer = self._store.get(key, options={"if_match": f'"{etag}"'})
            data, meta = answer.bytes().to_bytes(), answer.meta
        except Exception:  # boto3 asks again and finds out; this error may hold what must not reach a log
            return None
        return data if (meta["e_tag"] or "").strip('"') == etag and meta["size"] == len(data) else None

    def write(self, key: str, data: bytes, content_type: str) -> str | None:
        """Write an object in one piece; gives its ETag, None for whatever else came of it: it may be written or not."""
        assert self._store is not None
        try:
            answer = self._store.put(key, data, attributes={"Content-Type": content_type}, use_multipart=False)
        except Exception:  # boto3 writes it again and finds out
            return None
        return (answer["e_tag"] or "").strip('"') or None

    def note(self, *, needless: bool) -> None:
        """Say whether the latest attempt was of use, or boto3 has done what it could not."""
        self._needless = self._needless + 1 if needless else 0


class _EtagCheck:
    """Compares what came with its ETag, which is the MD5 of the content on most servers, but not on all.

    Unequal bytes are read again. On a server whose ETags were right at least once, an object that is never equal is
    corrupted. Where none was right so far, the same bytes twice mean that ETags are something else there: they are
    accepted with a warning, and after `FOREIGN_ETAGS` such objects nothing is compared any more. Amazon's encrypted
    objects, whose ETags are no MD5 either, say so themselves and do not come here.
    """

    def __init__(self) -> None:
        self._right_once = False
        self._foreign = 0

    def accept(self, uri: str, etag: str, data: bytes, came: set[str]) -> bool:
        """Whether `data` may be the object's; `came` holds the digests of earlier attempts and gets this one."""
        if not _MD5.fullmatch(etag) or (self._foreign >= FOREIGN_ETAGS and not self._right_once):
            return True
        digest = md5(data, usedforsecurity=False).hexdigest()
        if digest == etag:
            self._right_once = True
            return True
        if digest not in came or self._right_once:
            came.add(digest)
            return False
        self._foreign += 1
        _log.warning("%s: its ETag is not the MD5 of its content; accepted, because two reads gave the same", uri)
        return True


def _client_config(endpoint_url: str | None, max_connections: int, read_timeout_s: float) -> Config:
    options: dict[str, Any] = {
        "connect_timeout": CONNECT_TIMEOUT_S,
        "read_timeout": read_timeout_s,
        "retries": {"mode": "standard", "total_max_attempts": 1},
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


def _parse_time(text: Any) -> datetime:
    """A time as botocore reads it; the form of a listing without dateutil, which takes most of a listing's time."""
    if isinstance(text, str) and text.endswith("Z") and text[10:11] == "T":
        try:
            return datetime.fromisoformat(text)
        except ValueError:
            pass
    found: datetime = parse_timestamp(text)
    return found


def _object_info(entry: dict[str, Any]) -> ObjectInfo:
    return ObjectInfo(
        key=entry["Key"],
        etag=entry.get("ETag", "").strip('"'),
        size_bytes=entry["Size"],
        modified_at=entry["LastModified"].astimezone(UTC),
    )


def _answered_etag(answer: dict[str, Any]) -> str:
    """The ETag of an answer, which urllib3 takes for whole even when its head broke off."""
    etag = answer.get("ETag", "")
    if not etag.strip('"') or etag.count('"') == 1:
        raise _BadAnswerError("an answer without a whole ETag")
    return etag.strip('"')


def _may_pass(error: BaseException) -> bool:
    """Whether the same request may succeed when it is sent again."""
    if isinstance(error, ClientError):
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        return status in _PASSING_STATUS or _code(error) in _PASSING
    return isinstance(error, (*_NO_ANSWERS, *_BROKEN_ANSWERS))


def _kind(code: str, error: Exception) -> type[ObjectStoreError]:
    if isinstance(error, _WRONG_BYTES):
        return ObjectCorruptedError
    if isinstance(error, _NO_CREDENTIALS) or code in _EXPIRED | _WRONG_CREDENTIALS | _FORBIDDEN:
        return ObjectDeniedError
    return ObjectStoreError


def _code(error: BaseException) -> str:
    """The S3 error code, or ``""`` where the error did not come from the server."""
    return str(error.response.get("Error", {}).get("Code", "")) if isinstance(error, ClientError) else ""


def _text(words: object) -> str:
    """One line without passwords, keys and signatures, which an address or a server's own words may hold."""
    if isinstance(words, ClientError):
        words = f"{_code(words)}: {words.response['Error'].get('Message') or 'no explanation'}"
    return _SECRETS.sub(r"\1\2***", " ".join(str(words).split()))[:500]
