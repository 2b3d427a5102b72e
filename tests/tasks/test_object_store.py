"""The bucket, on a real S3 server."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from hashlib import md5
from pathlib import Path
from socket import create_server
from threading import Thread

import pytest

from infra.local_s3 import LocalS3
from tasks import object_store
from tasks.object_store import ObjectChangedError, ObjectMissingError, ObjectStore, ObjectStoreError

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
    assert bucket.get(key, etag) == key.encode()


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


def test_a_body_that_breaks_off_is_read_again_and_then_reported(
    bucket: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half an image would be inspected, or one hiccup of the network would lose an image of the night."""
    monkeypatch.setattr(object_store, "ATTEMPTS", 3)
    half = b'HTTP/1.1 200 OK\r\nContent-Length: 10\r\nETag: "e"\r\nConnection: close\r\n\r\nhello'
    whole = half + b"world"
    for answers, content in (([half, half, whole], b"helloworld"), ([half] * 3, None)):
        with create_server(("127.0.0.1", 0)) as listener:
            thread = Thread(target=_answer, args=(listener, answers))
            thread.start()
            with ObjectStore("some-bucket", f"http://127.0.0.1:{listener.getsockname()[1]}") as objects:
                if content is None:
                    with pytest.raises(ObjectStoreError, match=r"s3://some-bucket/a\.png: cannot read it"):
                        objects.get("a.png", "e")
                else:
                    assert objects.get("a.png", "e") == content
            thread.join()


def _answer(listener: object, answers: list[bytes]) -> None:
    for answer in answers:
        connection, _ = listener.accept()
        with connection:
            connection.recv(65536)
            connection.sendall(answer)
