"""The bucket, on a real S3 server."""

import html
import logging
import re
import socket
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime, timedelta
from hashlib import md5
from pathlib import Path
from socket import create_server
from threading import Thread

import pytest
from botocore.utils import parse_timestamp

from infra.local_s3 import LocalS3
from tasks.bucket import bucket as object_store
from tasks.bucket import client
from tasks.bucket.bucket import ObjectStore
from tasks.bucket.failures import ObjectChangedError, ObjectCorruptedError, ObjectMissingError, ObjectStoreError
from tasks.bucket.habits import FOREIGN_ETAGS

Answer = bytes | Callable[[bytes], bytes]
Answering = Callable[..., AbstractContextManager[ObjectStore]]

ODD_KEYS = [
    "a/with space.png",
    "a/üñí 日本.png",
    "a/quo'te\".png",
    "a/<b>&amp;.png",
    "a/pl+us%20.png",
    "a/star*?.png",
    "a/back\\slash.png",
    "a/line\nbreak.png",
]


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(object_store, "FIRST_WAIT_S", 0.001)


def test_what_was_written_is_listed_and_read(bucket: ObjectStore) -> None:
    """An image would be recorded with a wrong size, version or time."""
    before = datetime.now(UTC) - timedelta(seconds=2)
    etag = bucket.put("images/a.png", b"hello", "image/png")
    (info,) = bucket.list_objects("images/")
    assert (info.key, info.etag, info.size_bytes) == ("images/a.png", md5(b"hello").hexdigest(), 5)
    assert info.etag == etag
    assert before < info.modified_at < datetime.now(UTC) + timedelta(seconds=2)
    assert info.modified_at.utcoffset() == timedelta(0)
    assert bucket.get("images/a.png") == bucket.get("images/a.png", etag) == b"hello"
    assert bucket.exists("images/a.png")
    assert not bucket.exists("images/a")


@pytest.mark.parametrize("key", ODD_KEYS)
def test_any_key_comes_back_as_it_was_written(bucket: ObjectStore, key: str) -> None:
    """A part with an unusual name would be lost or mixed up with another."""
    etag = bucket.put(key, key.encode(), "image/png")
    assert [(found.key, found.etag) for found in bucket.list_objects("a/")] == [(key, etag)]
    assert bucket.get(key, etag) == bucket.get_listed(key, etag) == key.encode()


@pytest.mark.parametrize("key", ["images/a.png", "images/Teil 7 (übrig)/top+1.png"])
def test_plain_keys_are_read_without_boto3(bucket: ObjectStore, monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    """Every image of a night would cost ten times the processor time."""
    etag = bucket.put(key, b"hello", "image/png")
    monkeypatch.setattr(bucket, "get", None)
    assert bucket.get_listed(key, etag) == b"hello"


@pytest.mark.parametrize(
    "key", ["a//b.png", "/b.png", "a/../b.png", "a/./b.png", "../b.png", "a/b.png/", "a%2fb.png", ""]
)
def test_keys_that_obstore_would_alter_are_left_to_boto3(bucket: ObjectStore, key: str) -> None:
    """The bytes of one part would be judged under the name of another."""
    assert not bucket._fast.takes(key)


def test_a_listed_object_that_is_gone_is_told_from_a_changed_one(bucket: ObjectStore) -> None:
    """The report would blame the network for an image that was deleted or replaced during the run."""
    old = bucket.put("a.png", b"first", "image/png")
    bucket.put("a.png", b"second", "image/png")
    with pytest.raises(ObjectChangedError, match=rf"s3://{bucket.bucket}/a\.png: changed .* ETag was {old}"):
        bucket.get_listed("a.png", old)
    with pytest.raises(ObjectMissingError, match=rf"s3://{bucket.bucket}/b\.png: there is no such object"):
        bucket.get_listed("b.png", old)


def test_wrong_bytes_are_refused_where_listed_objects_were_right(answering: Answering) -> None:
    """An image that rots in the bucket would be accepted as one of a server whose ETags are no MD5."""
    etag = md5(b"hello").hexdigest()
    with answering([ok(b"hello", etag), *[ok(b"hellO", etag)] * 4]) as objects:
        assert objects.get_listed("a.png", etag) == b"hello"
        with pytest.raises(ObjectCorruptedError, match="3 attempts"):
            objects.get_listed("b.png", etag)


def test_what_never_helps_is_given_up(answering: Answering, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a server that obstore does not get on with, every image of a night would be asked for twice."""
    monkeypatch.setattr("tasks.bucket.fast_transfers.NEEDLESS_ATTEMPTS", 2)
    answer = ok(b"hello", md5(b"hello").hexdigest())
    broken = answer[:40]
    with answering([broken, answer, broken, answer, answer]) as objects:
        for _ in range(3):
            assert objects.get_listed("a.png", md5(b"hello").hexdigest()) == b"hello"


def test_a_proxy_is_left_to_boto3(bucket: ObjectStore, s3: LocalS3, monkeypatch: pytest.MonkeyPatch) -> None:
    """Images would be asked for around the company's proxy, or through one that cannot reach this machine."""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    etag = bucket.put("a.png", b"hello", "image/png")
    with ObjectStore(bucket.bucket, s3.endpoint_url) as objects:
        assert not objects._fast.takes("a.png")
        assert objects.get_listed("a.png", etag) == b"hello"


def test_one_of_many_is_written_like_any_other(bucket: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Heat maps would be missing from the report, or a browser offer them for download."""
    key, odd = "reports/overlays/1.jpg", "reports/o'dd.jpg"  # the odd one is left to boto3
    etags = {name: bucket.put_one_of_many(name, name.encode(), "image/jpeg") for name in (key, odd)}
    for name, etag in etags.items():
        assert bucket.get(name, etag) == name.encode()
        head = bucket._client.head_object(Bucket=bucket.bucket, Key=name)
        assert head["ContentType"] == "image/jpeg"
    monkeypatch.setattr(bucket, "put", lambda *_: pytest.fail("boto3 was asked, which takes ten times as long"))
    bucket.put_one_of_many(key, b"again", "image/jpeg")
    assert bucket.get(key) == b"again"


def test_what_obstore_cannot_write_boto3_writes(answering: Answering) -> None:
    """A night would lose a heat map to one answer that broke off."""
    answer = ok(b"", "0" * 32)
    with answering([answer[:20], answer]) as objects:
        assert objects.put_one_of_many("a.jpg", b"hello", "image/jpeg") == "0" * 32


def test_a_key_cannot_leave_the_bucket(bucket: ObjectStore) -> None:
    """A part's name from a camera could overwrite what lies outside the bucket."""
    for key in ("../evil.png", "a/../../evil.png"):
        with pytest.raises(ObjectStoreError, match=r"s3://test-.*evil\.png: cannot write it"):
            bucket.put(key, b"x", "image/png")


def test_a_listing_of_several_pages_is_complete(bucket: ObjectStore) -> None:
    """Every image after the thousandth of a night would never be inspected."""
    keys = [f"many/{number:04d}.png" for number in range(1005)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda key: bucket.put(key, b"x", "image/png"), keys))
    bucket.put("many-others/1.png", b"x", "image/png")
    assert [found.key for found in bucket.list_objects("many/")] == keys
    assert list(bucket.list_objects("nothing/")) == []


@pytest.mark.parametrize(
    "text", ["2026-03-02T10:00:00.123Z", "2026-03-02T10:00:00Z", "Mon, 02 Mar 2026 10:00:00 GMT", "1772445600"]
)
def test_times_are_read_as_botocore_reads_them(text: str) -> None:
    """An image would be recorded at another time than the bucket's, or only on servers that write it our way."""
    assert client._parse_time(text) == parse_timestamp(text)
    assert client._parse_time(text).utcoffset() == timedelta(0)


@pytest.mark.parametrize("text", ["2026-03-02Tx0:00:00Z", "Mon, 02 Ma"])
def test_half_a_time_is_none(text: str) -> None:
    """An answer that broke off would count as a whole one."""
    with pytest.raises(ValueError, match=re.escape(text)):
        client._parse_time(text)


def test_many_threads_share_a_store(bucket: ObjectStore) -> None:
    """Threads would receive each other's images."""
    etags = {f"{number}.png": bucket.put(f"{number}.png", b"%d" % number, "image/png") for number in range(40)}
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda key: bucket.get(key, etags[key]), list(etags) * 5))
    assert found == [b"%d" % number for number in range(40)] * 5


def test_a_missing_object_is_told_from_a_changed_one(bucket: ObjectStore) -> None:
    """The report would blame the network for an image that was deleted or replaced during the run."""
    old = bucket.put("a.png", b"first", "image/png")
    new = bucket.put("a.png", b"second", "image/png")
    with pytest.raises(
        ObjectChangedError, match=rf"s3://{bucket.bucket}/a\.png: changed .* {old}, is {new}"
    ) as changed:
        bucket.get("a.png", old)
    with pytest.raises(ObjectMissingError, match=rf"s3://{bucket.bucket}/b\.png: there is no such object") as missing:
        bucket.get("b.png", old)
    assert (changed.value.reason, missing.value.reason) == ("changed", "vanished")
    assert ObjectStoreError.reason == "fetch_failed"


def test_a_large_report_arrives_whole(bucket: ObjectStore) -> None:
    """A report of more than 8 MB would not arrive as it was written."""
    content = bytes(range(256)) * 40_000
    bucket.put("reports/big.bin", content, "application/octet-stream")
    assert bucket.get("reports/big.bin") == content


def test_creating_the_bucket_again_changes_nothing(bucket: ObjectStore) -> None:
    """The second start of the demo would fail or lose its images."""
    bucket.put("a.png", b"x", "image/png")
    bucket.create_bucket_if_missing()
    bucket.check()
    assert bucket.exists("a.png")


def test_a_missing_bucket_is_said_to_be_missing(bucket: ObjectStore, s3: LocalS3) -> None:
    """A wrong bucket name would look like an empty night or like a missing image."""
    with ObjectStore("not-there", s3.endpoint_url) as objects:
        for use in (objects.check, lambda: objects.get("a.png"), lambda: list(objects.list_objects(""))):
            with pytest.raises(ObjectStoreError, match=r"has no bucket 'not-there'.*INSPECTION_BUCKET") as caught:
                use()
            assert not isinstance(caught.value, ObjectMissingError)


@pytest.mark.parametrize("variable", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"])
def test_wrong_credentials_name_what_to_set(
    bucket: ObjectStore, s3: LocalS3, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    """The operator could not tell wrong keys from a broken server."""
    monkeypatch.setenv(variable, "W" * 20)
    with (
        ObjectStore(bucket.bucket, s3.endpoint_url) as objects,
        pytest.raises(ObjectStoreError, match=rf"{s3.endpoint_url} refuses the credentials .* check AWS_ACCESS_KEY_ID"),
    ):
        objects.check()


def test_missing_credentials_name_what_to_set(
    bucket: ObjectStore, s3: LocalS3, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A worker without keys would fail with a traceback of the library."""
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("HOME", str(tmp_path))
    with (
        ObjectStore(bucket.bucket, s3.endpoint_url) as objects,
        pytest.raises(ObjectStoreError, match=r"no complete S3 credentials .* set AWS_ACCESS_KEY_ID and"),
    ):
        objects.check()


def test_no_server_is_told_with_its_address(bucket: ObjectStore) -> None:
    """A stopped server would not be named."""
    with create_server(("127.0.0.1", 0)) as free:
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
    with (
        ObjectStore(bucket.bucket, address) as objects,
        pytest.raises(ObjectStoreError, match=rf"no answer from {address} .*INSPECTION_S3_ENDPOINT_URL"),
    ):
        objects.check()


def test_a_proxy_does_not_stand_before_this_machine(
    bucket: ObjectStore, s3: LocalS3, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The demo would fail on every machine that has a company's proxy in its environment."""
    for name in ("HTTP_PROXY", "http_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with ObjectStore(bucket.bucket, s3.endpoint_url) as objects:
        objects.check()


def test_a_body_that_breaks_off_is_read_again_and_then_reported(answering: Answering) -> None:
    """Half an image would be inspected, or one hiccup of the network would lose an image of the night."""
    half = b'HTTP/1.1 200 OK\r\nContent-Length: 10\r\nETag: "e"\r\nConnection: close\r\n\r\nhello'
    with answering([half, half, half + b"world"]) as objects:
        assert objects.get("a.png", "e") == b"helloworld"
    with (
        answering([half] * 3) as objects,
        pytest.raises(
            ObjectStoreError, match=r"s3://some-bucket/a\.png: cannot read it in 3 attempts: a broken answer"
        ),
    ):
        objects.get("a.png", "e")


def test_an_object_without_bytes_is_read(bucket: ObjectStore) -> None:
    """An empty file would be reported as a broken network."""
    etag = bucket.put("empty.png", b"", "image/png")
    assert bucket.get("empty.png", etag) == b""


def test_etags_that_are_no_md5_are_told_from_wrong_bytes(
    answering: Answering, caplog: pytest.LogCaptureFixture
) -> None:
    """On a server with other ETags nothing could be read, or everything twice for ever."""
    other = ok(b"hello", md5(b"something else").hexdigest())
    with answering([other, other] * FOREIGN_ETAGS + [other]) as objects:
        for _ in range(FOREIGN_ETAGS + 1):
            assert objects.get("a.png") == b"hello"
    assert caplog.text.count("s3://some-bucket/a.png: its ETag is not the MD5") == FOREIGN_ETAGS


@pytest.mark.parametrize(
    ("etag", "header"),
    [
        (md5(b"x").hexdigest(), "x-amz-server-side-encryption: aws:kms"),
        (md5(b"x").hexdigest(), "x-amz-server-side-encryption: aws:kms:dsse"),
        (md5(b"x").hexdigest(), "x-amz-server-side-encryption-customer-algorithm: AES256"),
        (md5(b"x").hexdigest() + "-2", "x-nothing: 0"),
    ],
)
def test_etags_that_cannot_be_md5_are_not_compared(answering: Answering, etag: str, header: str) -> None:
    """Encrypted objects and those of several parts would each be read twice or refused."""
    right = ok(b"hello", md5(b"hello").hexdigest())
    with answering([right, ok(b"hello", etag, header)]) as objects:
        assert objects.get("a.png") == objects.get("b.png") == b"hello"


def test_the_same_wrong_bytes_are_refused_where_etags_are_right(answering: Answering) -> None:
    """An image that rots in the bucket would be inspected as if it were the one that the camera took."""
    right, rotten = ok(b"hello", md5(b"hello").hexdigest()), ok(b"hellO", md5(b"hello").hexdigest())
    with answering([right, *[rotten] * 3]) as objects:
        objects.get("a.png")
        with pytest.raises(ObjectCorruptedError, match=r"s3://some-bucket/b\.png: .*3 attempts.* ETag") as caught:
            objects.get("b.png")
    assert caught.value.reason == "corrupted"


def test_a_server_without_etags_is_not_taken_for_a_changed_object(answering: Answering) -> None:
    """A login page of some network would look like images that were replaced."""
    page = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n<html>"
    with answering([page] * 3) as objects, pytest.raises(ObjectStoreError, match="without a whole ETag") as caught:
        objects.get("a.png", "e")
    assert caught.value.reason == "fetch_failed"


@pytest.mark.parametrize(("after", "pages"), [("", 1), ("<NextContinuationToken>t</NextContinuationToken>", 2)])
def test_a_listing_that_goes_round_in_a_circle_ends(answering: Answering, after: str, pages: int) -> None:
    """The nightly run would list for ever."""
    text = f"<ListBucketResult><IsTruncated>true</IsTruncated>{after}</ListBucketResult>".encode()
    with answering([ok(text, "e")] * pages) as objects, pytest.raises(ObjectStoreError, match="the same page again"):
        list(objects.list_objects("images/"))


LISTED = {"ETag": "e", "Size": "1", "LastModified": "2026-03-02T10:00:00Z"}


@pytest.mark.parametrize("missing", LISTED)
def test_a_listing_without_a_field_names_it(answering: Answering, missing: str) -> None:
    """Every image would count as changed in every night, or the night end in a KeyError."""
    fields = "".join(f"<{name}>{value}</{name}>" for name, value in LISTED.items() if name != missing)
    page = f"<ListBucketResult><Contents><Key>a.png</Key>{fields}</Contents><IsTruncated>false</IsTruncated>"
    with (
        answering([ok(f"{page}</ListBucketResult>".encode(), "e")]) as objects,
        pytest.raises(ObjectStoreError, match=f"'a.png': the server lists it without {missing}, by which"),
    ):
        list(objects.list_objects(""))


@pytest.mark.parametrize(
    ("status", "code", "way_out"),
    [
        (403, "InvalidObjectState", "it lies in an archive .* restore it there"),
        (400, "AuthorizationHeaderMalformed", "in another region .* set AWS_REGION to that"),
        (400, "KMS.DisabledException", "cannot decrypt it .* the right to use the key"),
    ],
)
def test_what_people_can_do_is_said(answering: Answering, status: int, code: str, way_out: str) -> None:
    """An operator would read an error code of S3, and have to look it up at night."""
    with answering([refused(status, code)]) as objects, pytest.raises(ObjectStoreError, match=way_out):
        objects.get("a.png")


@pytest.mark.fault(
    area="S3",
    fault="an answer breaks off, wherever that is",
    outcome="noticed and asked again; never taken for an empty listing, a smaller or changed image, or a write",
)
@pytest.mark.parametrize("etag", [md5(b"hello").hexdigest(), md5(b"x").hexdigest() + "-2"], ids=["md5", "parts"])
@pytest.mark.parametrize("use", ["get", "put", "list"])
def test_an_answer_that_breaks_off_anywhere_is_noticed(answering: Answering, use: str, etag: str) -> None:
    """A night could look empty or an image changed, because urllib3 and botocore take half a head for a whole one."""
    headers = "Last-Modified: Mon, 02 Mar 2026 10:00:00 GMT\r\nx-amz-request-id: 1"
    page = b"<ListBucketResult><Name>some-bucket</Name><Contents><Key>a</Key><ETag>e</ETag><Size>1</Size><LastModified>"
    page += b"2026-03-02T10:00:00Z</LastModified></Contents><IsTruncated>false</IsTruncated></ListBucketResult>"
    whole = ok({"get": b"hello", "put": b"", "list": page}[use], etag, headers)
    if "-" in etag:  # Amazon's order
        whole = re.sub(rb"(Content-Length: \d+\r\n)(.*?\r\n)\r\n", rb"\2\1\r\n", whole, count=1, flags=re.DOTALL)
    right = {"get": b"hello", "put": etag, "list": ["a"]}[use]
    found, reasons = [], set()
    with answering([whole[:cut] for cut in range(len(whole) + 1)], attempts=1) as objects:
        act = {
            "get": lambda: objects.get("a.png", etag),
            "put": lambda: objects.put("a.png", b"hello", "image/png"),
            "list": lambda: [info.key for info in objects.list_objects("")],
        }[use]
        for _ in range(len(whole) + 1):
            try:
                found.append(act())
            except ObjectStoreError as error:
                reasons.add(error.reason)
    assert found[-1] == right
    assert all(value == right for value in found)
    assert reasons == {"fetch_failed"}


@pytest.mark.fault(
    area="S3",
    fault="credentials expire during a run, and an operator renews them in the profile",
    outcome="boto3's chain is asked again and the request repeated; the run goes on",
)
def test_renewed_credentials_are_taken_up(
    answering: Answering, environment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run would fail at the moment its first credentials expire although new ones lie in the profile."""
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    profile = tmp_path / "credentials"
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(profile))
    profile.write_text("[default]\naws_access_key_id=OLDKEY\naws_secret_access_key=s\naws_session_token=t\n")
    asked: list[bytes] = []
    with answering([refused(400, "ExpiredToken"), ok(b"hello", md5(b"hello").hexdigest())], asked) as objects:
        profile.write_text("[default]\naws_access_key_id=NEWKEY\naws_secret_access_key=s\naws_session_token=t\n")
        assert objects.get("a.png") == b"hello"
    assert [b"Credential=OLDKEY/" in asked[0], b"Credential=NEWKEY/" in asked[1]] == [True, True]


def test_renewed_credentials_are_taken_up_by_listed_reads(
    answering: Answering, environment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the first expiry each image would be asked for twice, or with the old keys for ever."""
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    profile = tmp_path / "credentials"
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(profile))
    words = "[default]\naws_access_key_id={}\naws_secret_access_key=s\naws_session_token=t\n"
    profile.write_text(words.format("OLDKEY"))
    asked: list[bytes] = []
    etag, expired = md5(b"hello").hexdigest(), refused(400, "ExpiredToken")
    right = ok(b"hello", etag)
    with answering([expired, expired, right, right], asked) as objects:
        profile.write_text(words.format("NEWKEY"))
        assert objects.get_listed("a.png", etag) == objects.get_listed("a.png", etag) == b"hello"
    assert [b"Credential=NEWKEY/" in one for one in asked] == [False, False, True, True]


def test_no_secret_of_a_listed_read_reaches_an_error_or_the_log(
    answering: Answering, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever may read the log or the report could use the bucket."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "CANARYKEY")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "CANARYSECRET")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "CANARYTOKEN")
    caplog.set_level(logging.DEBUG)
    asked: list[bytes] = []
    with answering([repeating_the_request] * 2, asked) as objects, pytest.raises(ObjectStoreError) as caught:
        objects.get_listed("a.png", "e")
    shown = "".join(traceback.format_exception(caught.value)) + caplog.text
    for secret in ("CANARYKEY", "CANARYSECRET", "CANARYTOKEN"):
        assert secret not in shown
    assert caught.value.__context__ is None


@pytest.mark.fault(
    area="Security",
    fault="S3 repeats a request's headers in its error message, and logging is at DEBUG",
    outcome="neither the error nor the log holds a session token, signature or secret key",
)
def test_no_secret_reaches_an_error_or_the_log(
    answering: Answering, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever may read the log or the report could use the bucket."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "CANARYKEY")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "CANARYSECRET")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "CANARYTOKEN")
    caplog.set_level(logging.DEBUG)
    asked: list[bytes] = []
    with answering([repeating_the_request], asked) as objects, pytest.raises(ObjectStoreError) as caught:
        objects.get("a.png")
    assert b"CANARYTOKEN" in asked[0]
    signature = re.search(rb"Signature=(\w+)", asked[0])[1].decode()
    shown = "".join(traceback.format_exception(caught.value)) + caplog.text
    assert "refuses the credentials" in shown
    for secret in ("CANARYKEY", "CANARYSECRET", "CANARYTOKEN", signature):
        assert secret not in shown
    assert caught.value.__context__ is None


def test_no_password_of_an_address_reaches_an_error(environment: str) -> None:
    """A password that somebody put into the endpoint's address would stand in every report."""
    with create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with (
        ObjectStore("some-bucket", f"http://me:CANARY@127.0.0.1:{port}", attempts=1) as objects,
        pytest.raises(ObjectStoreError, match=rf"no answer from http://\*\*\*@127\.0\.0\.1:{port} ") as caught,
    ):
        objects.check()
    assert "CANARY" not in "".join(traceback.format_exception(caught.value))


def test_what_a_credential_process_prints_is_not_repeated(
    environment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A failing program that prints the keys it was given would have them in the log."""
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    program = tmp_path / "keys.sh"
    program.write_text("echo CANARY >&2; exit 1\n")
    config = tmp_path / "config"
    config.write_text(f"[default]\ncredential_process = /bin/sh {program}\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    with pytest.raises(ObjectStoreError, match="credential process failed") as caught:
        ObjectStore("some-bucket", "http://127.0.0.1:9")
    assert caught.value.reason == "access_denied"
    assert "CANARY" not in "".join(traceback.format_exception(caught.value))


def test_a_wrong_configuration_is_named(environment: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A misspelt profile or address would end in a traceback of the library."""
    with pytest.raises(ObjectStoreError, match=r"not-an-address.*; check AWS_PROFILE and INSPECTION_S3_ENDPOINT_URL"):
        ObjectStore("some-bucket", "not-an-address")
    monkeypatch.setenv("AWS_PROFILE", "no-such-profile")
    with pytest.raises(ObjectStoreError, match=r"no-such-profile.*; check AWS_PROFILE"):
        ObjectStore("some-bucket", "http://127.0.0.1:9")


def ok(content: bytes, etag: str, header: str = "x-nothing: 0") -> bytes:
    """A server's answer with this content."""
    return f'HTTP/1.1 200 OK\r\nContent-Length: {len(content)}\r\nETag: "{etag}"\r\n{header}\r\n\r\n'.encode() + content


def refused(status: int, code: str, message: str = "") -> bytes:
    """A server's refusal."""
    content = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>".encode()
    return b"HTTP/1.1 %d No\r\nContent-Length: %d\r\n\r\n" % (status, len(content)) + content


def repeating_the_request(request: bytes) -> bytes:
    """A refusal that shows all headers, as a helpful debugging page does."""
    return refused(403, "SignatureDoesNotMatch", html.escape(request.decode()))


@pytest.fixture
def answering(environment: str) -> Answering:
    """A store of three attempts whose server gives these answers, one a connection, and notes what it was asked."""

    @contextmanager
    def serve(answers: list[Answer], asked: list[bytes] | None = None, attempts: int = 3) -> Iterator[ObjectStore]:
        noted = [] if asked is None else asked
        with create_server(("127.0.0.1", 0)) as listener:
            thread = Thread(target=_answer, args=(listener, answers, noted))
            thread.start()
            address = f"http://127.0.0.1:{listener.getsockname()[1]}"
            with ObjectStore("some-bucket", address, attempts=attempts) as objects:
                yield objects
            thread.join()

    return serve


def _answer(listener: socket.socket, answers: list[Answer], asked: list[bytes]) -> None:
    listener.settimeout(30)  # a test that asks less often than it should must fail, not hang
    for answer in answers:
        connection, _ = listener.accept()
        with connection:
            asked.append(connection.recv(65536))
            connection.sendall(answer if isinstance(answer, bytes) else answer(asked[-1]))
