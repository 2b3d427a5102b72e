"""One night over the whole corpus of bad files and keys, through the real flows and over a real S3 server.

rclone takes most keys, moto's server takes those that rclone refuses or renames, empty multipart uploads and policies.
"""

import csv
import io
import json
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import date
from html.parser import HTMLParser
from pathlib import Path

import boto3
import pandas as pd
import pytest
from markdown_it import MarkdownIt
from prefect.artifacts import Artifact

from flows.ingest_images import ingest_images
from flows.score_batch import score_batch
from flows.train_ganomaly import train_ganomaly
from tasks.bucket.bucket import ObjectInfo, ObjectStore
from tasks.night.run import FailedImagesError
from tasks.settings import Settings
from tasks.store.store import ReportStore
from tests.faults.bad_images import DATE, IGNORED, IMAGES, KEYS, SCORED, STRAY, UNSEEN_KEYS, BadKey, good_image

pytestmark = pytest.mark.usefixtures("prefect_server")

LINE = "plates"
PREFIX = f"images/{LINE}/"
DAY = date.fromisoformat(DATE)
WEEK = (date(2026, 3, 1), date(2026, 3, 4))
DEFECT = good_image(7, defect=True)
# refused by rclone (no such file names, or a file and a folder of the same name), or listed under another name
NOT_ON_RCLONE = {
    *("parent", "dot", "long", "nul", "no-part", "parents", "folder", "day", "formula-key", "nfd"),
    *("newline", "return", "tab", "control", "ansi", "tab-first", "return-first", "ending-newline"),
}
# moto cannot route them: they lie under another name and are listed under this one
ALIASES = {PREFIX + case.key: PREFIX + case.key.replace("\n", "\u240a") for case in KEYS if "\n" in case.key}
TEMPLATE = Path(__file__).resolve().parents[2] / "tasks" / "report" / "templates" / "report.html.j2"


@dataclass(frozen=True)
class Plant:
    """A bucket, and the keys of the corpus that it takes."""

    objects: ObjectStore
    keys: tuple[BadKey, ...]


@pytest.fixture
def moto(environment: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A moto server in a process of its own, to which `Settings()` points; gives its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while True:
            assert server.poll() is None, "moto's server ended"
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except OSError:
                time.sleep(0.1)
        monkeypatch.setenv("INSPECTION_S3_ENDPOINT_URL", f"http://127.0.0.1:{port}")
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait()


@pytest.fixture(params=["rclone", "moto"])
def plant(request: pytest.FixtureRequest, environment: str, write_line: Callable[..., Path]) -> Iterator[Plant]:
    """A trained line and a night of good images, on either server."""
    if request.param == "moto":
        endpoint, keys = request.getfixturevalue("moto"), KEYS
    else:
        endpoint = request.getfixturevalue("s3").endpoint_url
        keys = tuple(case for case in KEYS if case.name not in NOT_ON_RCLONE)
    write_line(LINE, quality={"min_sharpness": 0.102}, scoring={"chunk_size": 32, "shard_size": 100})
    with ObjectStore(environment, endpoint) as objects:
        objects.create_bucket_if_missing()
        for number in range(100):
            objects.put(f"{PREFIX}{WEEK[number % 2]}/n{number}/top.png", good_image(100 + number), "image/png")
        for number in range(10):
            objects.put(f"{PREFIX}{DAY}/good-{number}/top.png", good_image(10 + number), "image/png")
        objects.put(f"{PREFIX}{DAY}/defect/top.png", DEFECT, "image/png")
        ingest_images(LINE, *WEEK)
        train_ganomaly(LINE, device="cpu")
        yield Plant(objects, keys)


def scores_of_the_day() -> pd.DataFrame:
    """What the report store that `Settings()` names holds of the day, by key."""
    with ReportStore(Settings().store_url) as store:
        run = store.runs.newest(LINE, DAY, DAY)
        scores = store.scores.of_window(LINE, DAY, DAY, run.model_version, run.calibration_id)
    return scores.set_index("key")


def add_the_corpus(plant: Plant) -> dict[str, str]:
    """Put every bad file under a good key and the defective part under every bad key; gives outcomes by key."""
    outcomes = {}
    for case in IMAGES:
        key = f"{PREFIX}{DAY}/{case.name}/top.{case.extension}"
        plant.objects.put(key, case.make(), "image/png")
        outcomes[key] = case.outcome
    for case in (*plant.keys, *UNSEEN_KEYS):
        key = PREFIX + case.key
        plant.objects.put(ALIASES.get(key, key), DEFECT, "image/png")
        if case not in UNSEEN_KEYS and case.outcome != IGNORED:
            outcomes[key.replace("\x00", "\u2400")] = case.outcome
    return outcomes


class Mischief:
    """What happens to three objects between listing and fetching, and an upload that holds nothing."""

    def __init__(self, objects: ObjectStore) -> None:
        self.objects = objects
        keys = {name: f"{PREFIX}{DAY}/{name}/top.png" for name in ("vanished", "changed", "access_denied", "empty")}
        self.failures = {keys[name]: name for name in ("vanished", "changed", "access_denied")}
        self.outcomes = {keys["empty"]: "empty"}
        self._client = boto3.client("s3", endpoint_url=objects.endpoint_url)
        self._deny(keys["access_denied"])
        self._upload_nothing(keys["empty"])

    def before(self) -> None:
        """Make the objects that will be listed."""
        for key in self.failures:
            self.objects.put(key, good_image(1), "image/png")

    def after_listing(self) -> None:
        """Delete and replace."""
        for key, reason in self.failures.items():
            if reason == "vanished":
                self._client.delete_object(Bucket=self.objects.bucket, Key=key)
            elif reason == "changed":
                self.objects.put(key, good_image(2), "image/png")

    def _deny(self, key: str) -> None:
        denied = {"Effect": "Deny", "Principal": "*", "Action": "s3:GetObject"}
        statement = {**denied, "Resource": f"arn:aws:s3:::{self.objects.bucket}/{key}"}
        policy = {"Version": "2012-10-17", "Statement": [statement]}
        self._client.put_bucket_policy(Bucket=self.objects.bucket, Policy=json.dumps(policy))

    def _upload_nothing(self, key: str) -> None:
        target = {"Bucket": self.objects.bucket, "Key": key}
        upload = {**target, "UploadId": self._client.create_multipart_upload(**target)["UploadId"]}
        part = self._client.upload_part(**upload, PartNumber=1, Body=b"")
        parts = {"Parts": [{"ETag": part["ETag"], "PartNumber": 1}]}
        self._client.complete_multipart_upload(**upload, MultipartUpload=parts)


def patch_object_store(monkeypatch: pytest.MonkeyPatch, after_listing: Callable[[], None]) -> None:
    """Let something happen after each listing, and show what moto cannot route under its real key."""
    real_list, real_get, real_get_listed = ObjectStore.list_objects, ObjectStore.get, ObjectStore.get_listed
    shown = {alias: key for key, alias in ALIASES.items()}

    def list_objects(self: ObjectStore, prefix: str) -> Iterator[ObjectInfo]:
        for found in list(real_list(self, prefix)):
            yield replace(found, key=shown.get(found.key, found.key))
        after_listing()

    def get(self: ObjectStore, key: str, etag: str | None = None) -> bytes:
        return real_get(self, ALIASES.get(key, key), etag)

    def get_listed(self: ObjectStore, key: str, etag: str) -> bytes:
        return real_get_listed(self, ALIASES.get(key, key), etag)

    monkeypatch.setattr(ObjectStore, "list_objects", list_objects)
    monkeypatch.setattr(ObjectStore, "get", get)
    monkeypatch.setattr(ObjectStore, "get_listed", get_listed)


@pytest.mark.fault(
    area="Object", fault="deleted between listing and fetching", outcome="failed (vanished); the night goes on"
)
@pytest.mark.fault(
    area="Object", fault="replaced between listing and fetching", outcome="failed (changed); the night goes on"
)
@pytest.mark.fault(
    area="Object", fault="a policy denies reading it", outcome="failed (access_denied); the night goes on"
)
@pytest.mark.fault(area="Object", fault="a multipart upload without content", outcome="unusable: empty")
@pytest.mark.fault(area="Object", fault="the same content under several keys", outcome="each is scored, all alike")
@pytest.mark.fault(
    area="Image file",
    fault="all of these in one night, beside good images",
    outcome="each gets its outcome, the good ones get the scores of a night without them, the counts add up",
)
@pytest.mark.fault(
    area="Key",
    fault="all of these in one night, all flagged",
    outcome="nothing in report, CSV, Prefect's artifact or object names is executed or leads elsewhere",
)
def test_a_night_of_bad_input(plant: Plant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken if a bad file or key stops the night, changes another image's score, is lost, or executes anywhere."""
    score_batch(LINE, DAY, DAY, device="cpu")
    alone = scores_of_the_day()
    assert alone.loc[f"{PREFIX}{DAY}/defect/top.png", "verdict"] == "flagged"

    monkeypatch.setenv("INSPECTION_STORE_URL", f"sqlite:///{tmp_path}/second.db")
    outcomes = add_the_corpus(plant)
    outcomes |= dict.fromkeys(alone.index, SCORED)
    on_moto = plant.keys == KEYS
    mischief = Mischief(plant.objects) if on_moto else None
    if mischief:
        outcomes |= mischief.outcomes
        mischief.before()
        patch_object_store(monkeypatch, mischief.after_listing)
    failures = mischief.failures if mischief else {}
    expected = {outcome: sum(found == outcome for found in outcomes.values()) for outcome in set(outcomes.values())}

    recorded = ingest_images(LINE, DAY, DAY)
    n_unusable = len(outcomes) - expected[SCORED]
    assert (recorded.listed, recorded.failed) == (len(outcomes) + len(failures), len(failures))
    assert (recorded.recorded, recorded.unusable) == (expected[SCORED], n_unusable)

    if mischief:
        mischief.before()
        with pytest.raises(FailedImagesError, match="3 of"):
            score_batch(LINE, DAY, DAY, device="cpu")
    else:
        score_batch(LINE, DAY, DAY, device="cpu")
    with ReportStore(Settings().store_url) as store:
        run = store.runs.newest(LINE, DAY, DAY)
        failed = store.runs.failures(run.id)
    scores = scores_of_the_day()
    reasons = scores["reason"].where(scores["verdict"] == "unusable", SCORED).to_dict()
    strays = {key: outcome for key, outcome in outcomes.items() if outcome == STRAY}
    assert reasons | strays == outcomes
    assert dict(zip(failed["key"], failed["reason"], strict=True)) == strays | failures
    assert (run.listed, run.failed) == (len(outcomes) + len(failures), len(failures))
    assert (run.scored, run.unusable) == (expected[SCORED], n_unusable)

    pd.testing.assert_series_equal(scores.loc[alone.index, "raw_score"], alone["raw_score"], check_exact=True)
    flagged_keys = [PREFIX + case.key for case in plant.keys if case.outcome == SCORED]
    assert set(scores.loc[flagged_keys, "verdict"]) == {"flagged"}
    assert set(scores.loc[flagged_keys, "raw_score"]) == {alone.loc[f"{PREFIX}{DAY}/defect/top.png", "raw_score"]}
    check_what_was_published(plant.objects, run.report_key, scores, failures)


def check_what_was_published(
    objects: ObjectStore, report_key: str, scores: pd.DataFrame, failures: dict[str, str]
) -> None:
    """The bucket holds the report and its pictures, and nothing of them can do anything."""
    folder = report_key.rsplit("/", 1)[0]
    written = [found.key for found in objects.list_objects("") if not found.key.startswith("images/")]
    overlays = {key for key in written if re.fullmatch(rf"reports/{LINE}/{DATE}/[\w-]*/?overlays/[\w-]+\.jpg", key)}
    assert set(scores["heat_map_key"].dropna()) <= overlays
    ours = [key for key in written if key.startswith(folder)]
    names = ("report.html", "flagged.csv", "regions.csv", "regions.parquet", "scores.parquet")
    assert set(ours) - overlays == {f"{folder}/{name}" for name in names}
    assert all(key.startswith(f"reports/{LINE}/{DATE}/") for key in written)

    parquet = pd.read_parquet(io.BytesIO(objects.get(f"{folder}/scores.parquet")))
    assert set(parquet["key"]) == set(scores.index)
    check_csv(objects.get(f"{folder}/flagged.csv").decode())
    check_html(objects.get(report_key).decode(), failures)
    check_markdown(Artifact.get(key=f"night-{LINE}").data)


def check_csv(text: str) -> None:
    """No cell is a formula, wherever a spreadsheet cuts the lines."""
    for delimiter in ",;\t|":
        for row in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter):
            assert not [cell for cell in row if cell.startswith(("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d"))]


class _Elements(HTMLParser):
    """Collects elements with their attributes, and text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def check_html(html: str, failures: dict[str, str]) -> None:
    """Every element and attribute stands in the template; whatever came from a key is text."""
    template = TEMPLATE.read_text(encoding="utf-8")
    tags = set(re.findall(r"<([a-z][a-z0-9]*)", template))
    names = set(re.findall(r'\s([A-Za-z0-9-]+)="', template))
    page = _Elements(html)
    assert {tag for tag, _ in page.elements} <= tags
    assert "script" not in tags
    attributes = [(name, value or "") for _, found in page.elements for name, value in found.items()]
    assert {name for name, _ in attributes} <= {name.lower() for name in names}
    assert not [name for name, _ in attributes if name.startswith("on")]
    assert {value for name, value in attributes if name == "href"} == {
        "data:,",
        "#elsewhere",
        "flagged.csv",
        "regions.csv",
        "scores.parquet",
    }
    assert all(value.startswith("data:image/jpeg;base64,") for name, value in attributes if name == "src")
    from_keys = {name for name, value in attributes if "alert(1)" in value or "evil.example" in value}
    assert from_keys <= {"alt"}
    for said in ("<img src=x onerror=alert(1)>", "<script>alert(1)</script>/top.png", *failures):
        assert said in page.text


def check_markdown(text: str) -> None:
    """What Prefect's page shows of the night is headings, tables and text."""
    page = _Elements(MarkdownIt("gfm-like", {"linkify": False, "html": True}).render(text))
    assert {tag for tag, _ in page.elements} <= {"h1", "p", "strong", "table", "thead", "tbody", "tr", "th", "td"}
    assert {name for _, found in page.elements for name in found} <= {"style"}  # the columns' alignment
