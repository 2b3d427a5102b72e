"""What goes wrong with a bucket: errors by name, which of them may pass, and what the operator is to do."""

import re

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
from urllib3.exceptions import HTTPError

from tasks.errors import OperatingError

OUTAGE_S = 60
_MISSING = {"NoSuchKey", "NotFound", "404"}
_CHANGED = {"PreconditionFailed", "412"}
_ARCHIVED = {"InvalidObjectState"}
_ELSEWHERE = {"PermanentRedirect", "AuthorizationHeaderMalformed", "301"}
_ENCRYPTED = {"KMS.DisabledException", "KMS.NotFoundException", "KMS.AccessDeniedException", "InvalidRequest"}
_NO_BUCKET = {"NoSuchBucket"}
EXPIRED = {"ExpiredToken", "ExpiredTokenException", "RequestExpired", "TokenRefreshRequired"}
_WRONG_CREDENTIALS = {"InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken"}
_FORBIDDEN = {"AccessDenied", "AllAccessDisabled", "Forbidden", "403"}
_WRONG_CLOCK = {"RequestTimeTooSkewed"}
_PASSING_STATUS = {429, 500, 502, 503, 504}
_PASSING = {  # some servers send these with another status
    *("SlowDown", "Throttling", "ThrottlingException", "RequestThrottled", "RequestLimitExceeded", "TooManyRequests"),
    *("BandwidthLimitExceeded", "RequestTimeout", "InternalError", "ServiceUnavailable", "OperationAborted"),
}
_CREDENTIAL_VARIABLES = "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (or AWS_PROFILE)"
_SECRETS = re.compile(  # the password in an address; what a server may repeat of a request's headers
    r"(://)[^/\s@]+(?=@)|((?:credential|signature|signatureprovided|security-token)[\"']*\s*[=:>]\s*[\"']*)[^\s&,;<\"']+",
    re.IGNORECASE,
)


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


class BadAnswerError(Exception):
    """The answer is not what S3 answers."""


class WrongBytesError(Exception):
    """The bytes do not belong to the ETag."""


class OutageError(Exception):
    """Nobody gets an answer, so that this request was not sent."""


_NO_CREDENTIALS = (NoCredentialsError, PartialCredentialsError, CredentialRetrievalError)
_WRONG_BYTES = (WrongBytesError, FlexibleChecksumError)
_BROKEN_ANSWERS = (BadAnswerError, ResponseParserError, IncompleteReadError, ResponseStreamingError, *_WRONG_BYTES)
_NO_ANSWERS = (HTTPClientError, NoConnectionError, HTTPError)
ERRORS = (ClientError, BotoCoreError, HTTPError, ResponseParserError, BadAnswerError, WrongBytesError, OutageError)


def failure_of(
    action: str, bucket: str, key: str, error: Exception, attempts: int, endpoint_url: str | None, silent_s: float = 0.0
) -> ObjectStoreError:
    """The error to raise for what a library raised: names ``s3://bucket/key``, the reason and the way out."""
    uri, server = f"s3://{bucket}/{key}", one_line(endpoint_url or "Amazon S3")
    code = code_of(error)
    if key and code in _MISSING:
        return ObjectMissingError(f"{uri}: there is no such object")
    if code in _CHANGED:
        return ObjectChangedError(f"{uri}: changed since it was listed ({code})")
    times = f" in {attempts} attempts" if attempts > 1 else ""
    kind = _kind(code, error)
    return kind(f"{uri}: cannot {action} it{times}: {_explain(server, bucket, code, error, silent_s)}")


def _explain(server: str, bucket: str, code: str, error: Exception, silent_s: float) -> str:
    if isinstance(error, OutageError):
        return f"{server} has not answered anybody for {OUTAGE_S} s and more; is it running? run again when it is"
    if isinstance(error, CredentialRetrievalError):  # its text is what a program wrote that prints keys
        return f"the profile's credential process failed; try it by hand, or set {_CREDENTIAL_VARIABLES}"
    if isinstance(error, (ProfileNotFound, ValueError)):  # boto3 calls an address that is none a ValueError
        return f"{one_line(error)}; check AWS_PROFILE and INSPECTION_S3_ENDPOINT_URL"
    if isinstance(error, _NO_CREDENTIALS):
        return f"no complete S3 credentials for {server}; set {_CREDENTIAL_VARIABLES}"
    if isinstance(error, _WRONG_BYTES):
        return f"the bytes from {server} do not belong to its ETag or checksum; if that stays, upload it again"
    return _explain_code(server, bucket, code, error) or _explain_no_answer(server, error, silent_s)


_WAYS_OUT = (
    (EXPIRED, "the credentials for {server} have expired ({code}); renew {variables} and run again"),
    # without the right to list, S3 denies access to what is not there
    (
        _WRONG_CREDENTIALS | _FORBIDDEN,
        "{server} refuses the credentials ({said}); check {variables}, and the bucket's policy for this key",
    ),
    (_WRONG_CLOCK, "this machine's clock and that of {server} differ ({code}); set the clock"),
    (_NO_BUCKET, "{server} has no bucket {bucket!r}; create it or set INSPECTION_BUCKET"),
    (_ARCHIVED, "it lies in an archive ({code}); restore it there, or let the bucket archive later"),
    (_ELSEWHERE, "{server} has the bucket in another region ({said}); set AWS_REGION to that"),
    (_ENCRYPTED, "{server} cannot decrypt it ({said}); the job needs the right to use the key, and no key of its own"),
)
"""What is wrong and the way out, by S3's error codes."""


def _explain_code(server: str, bucket: str, code: str, error: Exception) -> str | None:
    facts = {"server": server, "bucket": bucket, "code": code, "variables": _CREDENTIAL_VARIABLES}
    for codes, words in _WAYS_OUT:
        if code in codes:
            return words.format(said=one_line(error), **facts)
    if code and may_pass(error):
        return f"{server} is overloaded or broken ({one_line(error)}); run again when it is well"
    return None


def _explain_no_answer(server: str, error: Exception, silent_s: float) -> str:
    if isinstance(error, ReadTimeoutError):
        return f"no answer from {server}, or no end of one, for {silent_s:g} s; run again when it is well"
    if isinstance(error, _BROKEN_ANSWERS):
        return f"a broken answer from {server} ({one_line(error)}); run again when it is well"
    if isinstance(error, _NO_ANSWERS):
        return f"no answer from {server} ({one_line(error)}); is it running? set INSPECTION_S3_ENDPOINT_URL"
    return f"{server}: {one_line(error)}"


def may_pass(error: BaseException) -> bool:
    """Whether the same request may succeed when it is sent again."""
    if isinstance(error, ClientError):
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        return status in _PASSING_STATUS or code_of(error) in _PASSING
    return isinstance(error, (*_NO_ANSWERS, *_BROKEN_ANSWERS))


def _kind(code: str, error: Exception) -> type[ObjectStoreError]:
    if isinstance(error, _WRONG_BYTES):
        return ObjectCorruptedError
    if isinstance(error, _NO_CREDENTIALS) or code in EXPIRED | _WRONG_CREDENTIALS | _FORBIDDEN:
        return ObjectDeniedError
    return ObjectStoreError


def code_of(error: BaseException) -> str:
    """The S3 error code, or ``""`` where the error did not come from the server."""
    return str(error.response.get("Error", {}).get("Code", "")) if isinstance(error, ClientError) else ""


def one_line(words: object) -> str:
    """One line without passwords, keys and signatures, which an address or a server's own words may hold."""
    if isinstance(words, ClientError):
        words = f"{code_of(words)}: {words.response['Error'].get('Message') or 'no explanation'}"
    return _SECRETS.sub(r"\1\2***", " ".join(str(words).split()))[:500]
