"""An S3 server that fails in every way it can: a real one behind `fault_proxy.py`."""

import importlib.util
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from ganomaly.images.quality import QualityGate
from ganomaly.images.recipe import Recipe
from infra.local_s3 import LocalS3
from tasks.bucket import bucket as object_store
from tasks.bucket.bucket import ObjectStore
from tasks.bucket.failures import ObjectCorruptedError, ObjectDeniedError, ObjectStoreError
from tasks.night.fetching import FetchedImage, fetch_images
from tasks.night.listing import ListedImage

ATTEMPTS = 4
AGAIN = "asked again with growing random waits; the image is read"
MIXED = ["internal_error", "slow_down", "too_many_requests", "stall", "reset", "stall_in_body", "close_in_body"]


def case(fault: str, words: str, outcome: str = AGAIN, area: str = "S3") -> Any:
    """A parameter that is a row of the table."""
    return pytest.param(fault, marks=pytest.mark.fault(area=area, fault=words, outcome=outcome), id=fault)


PASSING = [
    case("internal_error", "answers 500"),
    case("slow_down", "answers 503 SlowDown"),
    case("too_many_requests", "answers 429"),
    case("stall", "does not answer"),
    case("reset", "resets the connection instead of an answer"),
    case("stall_in_body", "falls silent in the middle of an image"),
    case("close_in_body", "ends the connection in the middle of an image"),
    case("wrong_bytes", "sends other bytes of the same length", "noticed by the ETag; asked again; the image is read"),
]


@pytest.fixture(scope="session")
def fault_proxy_class() -> Any:
    """The class in `fault_proxy.py`, which no package holds."""
    spec = importlib.util.spec_from_file_location("fault_proxy", Path(__file__).with_name("fault_proxy.py"))
    assert spec is not None
    assert spec.loader is not None
    sys.modules[spec.name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.FaultProxy


@pytest.fixture(scope="session")
def running_proxy(s3: LocalS3, fault_proxy_class: Any) -> Iterator[Any]:
    """A proxy before the S3 server."""
    with fault_proxy_class(s3.endpoint_url) as proxy:
        yield proxy


@pytest.fixture
def fault_proxy(running_proxy: Any) -> Any:
    """A proxy before the S3 server, honest until it is told otherwise."""
    running_proxy.set_faults([])
    return running_proxy


@pytest.fixture
def through(bucket: ObjectStore, fault_proxy: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectStore]:
    """The bucket through the proxy, with little patience."""
    monkeypatch.setattr(object_store, "FIRST_WAIT_S", 0.01)
    with ObjectStore(bucket.bucket, fault_proxy.url, read_timeout_s=0.5, attempts=ATTEMPTS) as objects:
        yield objects


@pytest.mark.parametrize("fault", PASSING)
def test_what_passes_costs_no_image(bucket: ObjectStore, through: ObjectStore, fault_proxy: Any, fault: str) -> None:
    """One bad moment of the network would lose images of the night."""
    content = bytes(range(256)) * 200
    etag = bucket.put("a.png", content, "image/png")
    fault_proxy.set_faults([{"fault": fault, "method": "GET", "nth": list(range(1, ATTEMPTS))}])
    assert through.get("a.png", etag) == content
    assert fault_proxy.counts() == {fault: ATTEMPTS - 1, "passed": 1}


@pytest.mark.parametrize(
    ("fault", "reason", "words"),
    [
        ("slow_down", "fetch_failed", "overloaded or broken .SlowDown: injected"),
        ("stall", "fetch_failed", "no answer from .*, or no end of one, for 0.5 s"),
        ("reset", "fetch_failed", "no answer from .*INSPECTION_S3_ENDPOINT_URL"),
        ("stall_in_body", "fetch_failed", "no answer from .*, or no end of one, for 0.5 s"),
        ("close_in_body", "fetch_failed", "a broken answer"),
        ("wrong_bytes", "corrupted", "do not belong to its ETag"),
    ],
)
def test_what_does_not_pass_ends_after_all_attempts(
    bucket: ObjectStore, through: ObjectStore, fault_proxy: Any, fault: str, reason: str, words: str
) -> None:
    """A broken server would be asked for ever, or half an image inspected."""
    etag = bucket.put("a.png", b"x" * 5000, "image/png")
    fault_proxy.set_faults([{"fault": fault}])
    with pytest.raises(
        ObjectStoreError, match=rf"s3://{bucket.bucket}/a\.png: cannot read it in 4 attempts: .*{words}"
    ) as caught:
        through.get("a.png", etag)
    assert caught.value.reason == reason
    assert fault_proxy.counts() == {fault: ATTEMPTS}


@pytest.mark.fault(
    area="Object",
    fault="its bytes have changed where they lie, its ETag has not",
    outcome="failed (corrupted) after all attempts; other images are read",
)
def test_a_rotten_object_is_refused(bucket: ObjectStore, through: ObjectStore, fault_proxy: Any) -> None:
    """The verdict would be about other bytes than the camera's."""
    etags = {key: bucket.put(key, key.encode() * 100, "image/png") for key in ("bad.png", "good.png")}
    fault_proxy.set_faults([{"fault": "same_wrong_bytes", "key": "bad"}])
    assert through.get("good.png", etags["good.png"]) == b"good.png" * 100
    with pytest.raises(ObjectCorruptedError, match=r"bad\.png"):
        through.get("bad.png", etags["bad.png"])
    assert fault_proxy.counts()["same_wrong_bytes"] == ATTEMPTS


@pytest.mark.fault(
    area="Object",
    fault="access to one object is denied",
    outcome="failed (access_denied), not asked for again in this run; other images are read",
)
def test_access_denied_on_one_object(bucket: ObjectStore, through: ObjectStore, fault_proxy: Any) -> None:
    """One protected image would stop the night, or be asked for over and over."""
    for key in ("bad.png", "good.png"):
        bucket.put(key, b"x", "image/png")
    fault_proxy.set_faults([{"fault": "access_denied", "key": "bad"}])
    with pytest.raises(ObjectDeniedError, match=r"bad\.png: .* refuses .*AccessDenied.* policy") as caught:
        through.get("bad.png")
    assert caught.value.reason == "access_denied"
    assert through.get("good.png") == b"x"
    assert fault_proxy.counts() == {"access_denied": 1, "passed": 1}


@pytest.mark.fault(
    area="S3",
    fault="the credentials expire and nobody renews them",
    outcome="read anew from boto3's chain once; then failed (access_denied), and the message says what to renew",
)
def test_expired_credentials_say_what_to_renew(
    bucket: ObjectStore, through: ObjectStore, fault_proxy: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of ten thousand images would wait and build sessions, and nobody would know why they failed."""
    monkeypatch.setattr(object_store, "RENEW_EVERY_S", 1000)
    fault_proxy.set_faults([{"fault": "expired_token"}])
    for _ in range(3):
        with pytest.raises(
            ObjectDeniedError, match=r"have expired \(ExpiredToken\); renew AWS_ACCESS_KEY_ID"
        ) as caught:
            through.get("a.png")
        assert caught.value.reason == "access_denied"
    assert fault_proxy.counts() == {"expired_token": 4}


WRITE_OUTCOME = "asked again; the content is whole and its ETag is known"


@pytest.mark.parametrize(
    "fault",
    [
        case("slow_down", "answers 503 SlowDown to a write", WRITE_OUTCOME),
        case("stall", "does not answer a write", WRITE_OUTCOME),
        case("close_in_body", "writes, but the answer is lost", WRITE_OUTCOME),
    ],
)
def test_writing_is_repeated(bucket: ObjectStore, through: ObjectStore, fault_proxy: Any, fault: str) -> None:
    """The report of a night, or an overlay in it, would be missing."""
    fault_proxy.set_faults([{"fault": fault, "nth": [1, 2]}])
    etag = through.put("report.html", b"<html>", "text/html")
    assert bucket.get("report.html", etag) == b"<html>"
    assert fault_proxy.counts() == {fault: 2, "passed": 1}


def test_asking_for_an_object_is_repeated(bucket: ObjectStore, through: ObjectStore, fault_proxy: Any) -> None:
    """A report that is there would count as missing, because the server was busy when it was looked for."""
    bucket.put("report.html", b"<html>", "text/html")
    fault_proxy.set_faults([{"fault": "slow_down", "nth": [1, 2]}])
    assert through.exists("report.html")
    assert not through.exists("nothing.html")
    assert fault_proxy.counts() == {"slow_down": 4, "passed": 2}


@pytest.mark.fault(
    area="S3",
    fault="a page of the listing is refused, never comes or breaks off",
    outcome="that page is asked for again; the listing is complete",
)
def test_a_page_of_a_listing_is_repeated(
    environment: str, tmp_path: Path, fault_proxy_class: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The images after a failed page would never be inspected, or the whole night would fail."""
    monkeypatch.setattr(object_store, "FIRST_WAIT_S", 0.01)
    keys = [f"many/{number:04}.png" for number in range(1005)]
    (tmp_path / "plant" / "some-bucket" / "many").mkdir(parents=True)
    for key in keys:
        (tmp_path / "plant" / "some-bucket" / key).write_bytes(b"x")
    with LocalS3(tmp_path / "plant") as server, fault_proxy_class(server.endpoint_url) as proxy:
        for name, value in server.environment().items():
            monkeypatch.setenv(name, value)
        with ObjectStore("some-bucket", proxy.url, read_timeout_s=0.5, attempts=ATTEMPTS) as objects:
            for fault in ("slow_down", "reset", "stall_in_body", "close_in_body"):
                proxy.set_faults([{"fault": fault, "nth": [1, 3]}])
                assert [found.key for found in objects.list_objects("many/")] == keys
                assert proxy.counts() == {fault: 2, "passed": 2}


@pytest.mark.fault(
    area="S3",
    fault="refuses connections for a moment, as while it restarts",
    outcome=AGAIN,
)
def test_a_restart_is_waited_out(bucket: ObjectStore, fault_proxy: Any) -> None:
    """Every image that is fetched while the server restarts would be lost for the night."""
    bucket.put("a.png", b"x", "image/png")
    with ObjectStore(bucket.bucket, fault_proxy.url) as objects:
        assert objects.get("a.png") == b"x"
        fault_proxy.refuse(seconds=0.3)
        assert objects.get("a.png") == b"x"


@pytest.mark.fault(
    area="S3",
    fault="answers nobody for a long time",
    outcome="failed (fetch_failed); after a minute each further image gets one attempt, one at a time, until the first "
    "answer",
)
def test_a_long_outage_costs_each_image_little(
    bucket: ObjectStore, through: ObjectStore, fault_proxy: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten thousand images would each wait for all attempts: days instead of minutes."""
    monkeypatch.setattr("tasks.bucket.habits.OUTAGE_S", 0)
    monkeypatch.setattr("tasks.bucket.habits.OUTAGE_FAILURES", 2 * ATTEMPTS)
    bucket.put("a.png", b"x", "image/png")
    fault_proxy.set_faults([{"fault": "internal_error"}])
    for _ in range(10):
        with pytest.raises(ObjectStoreError):
            through.get("a.png")
    assert fault_proxy.counts() == {"internal_error": 2 * ATTEMPTS + 8}

    fault_proxy.set_faults([{"fault": "stall"}])
    with ThreadPoolExecutor(8) as pool:
        errors = [str(error) for error in pool.map(lambda _: error_of(lambda: through.get("a.png")), range(100))]
    assert fault_proxy.counts()["stall"] < 100
    assert sum("has not answered anybody" in error for error in errors) == 100 - fault_proxy.counts()["stall"]

    fault_proxy.set_faults([{"fault": "internal_error", "nth": [2, 3, 4]}])
    assert [through.get("a.png"), through.get("a.png")] == [b"x", b"x"]


@pytest.mark.fault(
    area="S3",
    fault="5 % of requests fail in one of eight ways",
    outcome="every image is read and every byte is right",
)
def test_a_night_of_small_images_at_five_per_cent_faults(
    bucket: ObjectStore, fault_proxy: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bad network would cost images or change them."""
    monkeypatch.setattr(object_store, "FIRST_WAIT_S", 0.05)
    contents = {f"images/{number:03}.png": small_image(number) for number in range(200)}
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda item: bucket.put(*item, "image/png"), contents.items()))
    fault_proxy.set_faults([{"fault": [*MIXED, "wrong_bytes"], "probability": 0.05}])
    with ObjectStore(bucket.bucket, fault_proxy.url, read_timeout_s=0.5) as objects:
        day = date(2026, 3, 2)
        images = [ListedImage(found.key, found.etag, found.key, "top", day) for found in objects.list_objects("")]
        fetched = fetch_images(objects, images, Recipe(size_px=32), QualityGate(), threads=8)
    assert all(isinstance(image, FetchedImage) for image in fetched)
    assert {image.image.key: image.data for image in fetched} == contents
    counts = fault_proxy.counts()
    assert (counts.total() - counts["passed"], len(counts)) > (8, 5)


def error_of(act: Callable[[], object]) -> ObjectStoreError:
    """The error that this ends with."""
    with pytest.raises(ObjectStoreError) as caught:
        act()
    return caught.value


def small_image(seed: int) -> bytes:
    """PNG of 40 x 40 px of noise."""
    pixels = np.random.default_rng(seed).integers(0, 256, (40, 40), dtype=np.uint8)
    return cv2.imencode(".png", pixels)[1].tobytes()
