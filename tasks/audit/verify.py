"""Recompute a sample of a past run from the bucket and the run's own model version, and compare with what is stored."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ganomaly.acceleration.devices import pick_device
from ganomaly.acceleration.precision import Precision
from ganomaly.detector import Detector
from ganomaly.image_score import ImageScore
from ganomaly.scoring.calibration import Calibration
from tasks.audit.lookup import Archive
from tasks.audit.trace import open_registry
from tasks.errors import OperatingError
from tasks.night.fetching import FailedImage, FetchedImage, fetch_images
from tasks.night.listing import ListedImage
from tasks.registry.versions import model_name
from tasks.store.rows import ScoringRun, StoredImage, StoredScore

TOLERANCES: dict[Precision, float] = {"fp32": 1e-4, "bf16": 0.03}
"""Largest relative difference of two raw scores that count as equal, by what the networks compute in.

The same machine repeats itself to about 1e-6. Another processor or a GPU adds in another order: with a processor that
has no AVX-512 or no bfloat16, fused scores moved by up to 5e-5 (fp32) and 2e-3 (bf16), Gaussian scores by 0.025 (bf16).
A changed image, weight or limit moves scores by more than this.
"""
CHUNK = 128
THREADS = 8
_ROUNDING = 1e-9

Outcome = Literal["equal", "different", "vanished", "changed", "not fetched"]

_MISSING: dict[str, Outcome] = {"vanished": "vanished", "changed": "changed"}


class VerificationError(OperatingError):
    """A run that cannot be recomputed."""


@dataclass(frozen=True)
class Recomputed:
    """One image of the sample.

    Attributes:
        stored: what the run wrote.
        outcome: ``equal`` or ``different``; ``vanished`` or ``changed`` when the object is no longer the one that was
            judged; ``not fetched`` when the bucket did not give it.
        detail: what differs or why it was not compared; empty when equal.
        score: what comes out now; None when not compared.
        relative_difference: of the raw scores; None when not compared or not judged.
    """

    stored: StoredScore
    outcome: Outcome
    detail: str = ""
    score: ImageScore | None = None
    relative_difference: float | None = None


@dataclass(frozen=True)
class Verification:
    """What came out of recomputing a sample of a run.

    Attributes:
        run: as it is recorded.
        seed: that drew the sample.
        device: that recomputed it.
        tolerance: see `TOLERANCES`.
        images: the sample, by key.
    """

    run: ScoringRun
    seed: int
    device: str
    tolerance: float
    images: tuple[Recomputed, ...]

    def count(self, *outcomes: Outcome) -> int:
        """How many images of the sample ended in one of these."""
        return sum(image.outcome in outcomes for image in self.images)

    @property
    def compared(self) -> int:
        """How many images could be compared."""
        return self.count("equal", "different")

    @property
    def largest_relative_difference(self) -> float:
        """Of all raw scores that were compared."""
        return max((image.relative_difference or 0.0 for image in self.images), default=0.0)

    @property
    def passed(self) -> bool:
        """Whether something was compared, nothing differs, and nothing that still is there was left out."""
        return self.compared > 0 and self.count("different", "not fetched") == 0


def verify_run(archive: Archive, run_id: str, n: int, seed: int, device: str) -> Verification:
    """Recompute up to `n` random images of a run, with the model version and calibration that it was judged with.

    Raises:
        VerificationError: if there is no such run or device, it judged nothing itself, or MLflow has lost its model.
        RegistryUnreachableError: if MLflow does not answer.
        DetectorFileError: if the model's files were altered.
    """
    run = _find_run(archive, run_id)
    sample = archive.store.scores.sample(run.id, n, seed)
    if not sample:
        raise VerificationError(
            f"run {run.id} ({run.state}) judged no image itself: {run.already_scored} were scored before, "
            f"{run.unusable} are unusable; verify the run that did, see `inspection runs {run.line}`"
        )
    detector = _load(archive, run, device)
    images = []
    for start in range(0, len(sample), CHUNK):
        chunk = sample[start : start + CHUNK]
        images += _recompute(archive, detector, chunk, [_record_of(archive, stored) for stored in chunk])
    return Verification(run, seed, str(detector.device), TOLERANCES[detector.judge.precision], tuple(images))


def _find_run(archive: Archive, run_id: str) -> ScoringRun:
    try:
        return archive.store.runs.get(run_id)
    except LookupError:
        raise VerificationError(
            f"{archive.address} has no run {run_id!r}; `inspection runs LINE` lists a line's runs, and the "
            "folder of a report in the bucket is named after its run"
        ) from None


def _load(archive: Archive, run: ScoringRun, device: str) -> Detector:
    registry = open_registry(archive)
    version = registry.version(run.line, run.model_version)
    if version is None or run.model_name != model_name(run.line):
        raise VerificationError(
            f"run {run.id} was judged by {run.model_name} version {run.model_version}, which MLflow at "
            f"{registry.address} does not have (any more): it cannot be recomputed"
        )
    try:
        pick_device(device)
    except ValueError as error:
        raise VerificationError(str(error)) from None
    detector = registry.load_detector(version, archive.settings.work_dir / "models", device)
    if detector.calibrated.id != run.calibration_id:
        raise VerificationError(
            f"run {run.id} was judged with calibration {run.calibration_id}, but {version.uri} in MLflow at "
            f"{registry.address} has {detector.calibrated.id}: it is not the model that judged"
        )
    return detector


def _recompute(
    archive: Archive, detector: Detector, chunk: Sequence[StoredScore], records: Sequence[StoredImage]
) -> list[Recomputed]:
    listed = [
        ListedImage(i.key, i.etag, i.part, i.view, i.production_date, i.captured_at, i.size_bytes) for i in records
    ]
    config, calibration, tolerance = detector.config, detector.calibrated, TOLERANCES[detector.judge.precision]
    found = fetch_images(archive.objects, listed, config.recipe, config.quality, threads=THREADS)
    outcomes = [_without_score(*each) for each in zip(chunk, records, found, strict=True)]
    to_score = np.array([outcome is None for outcome in outcomes], dtype=bool)
    prepared = [image.prepared for image in found if isinstance(image, FetchedImage)]
    fetched = np.array([isinstance(image, FetchedImage) for image in found], dtype=bool)
    scores = iter(detector.score_prepared(detector.stack(prepared, to_score[fetched])))
    return [
        outcome or compare(stored, next(scores), calibration, tolerance)
        for stored, outcome in zip(chunk, outcomes, strict=True)
    ]


def _without_score(stored: StoredScore, record: StoredImage, image: FetchedImage | FailedImage) -> Recomputed | None:
    """The outcome for an image that is not there as it was; None for one to recompute."""
    if isinstance(image, FailedImage):
        return Recomputed(stored, _MISSING.get(image.reason, "not fetched"), image.detail)
    if image.sha256 != record.sha256:
        return Recomputed(stored, "different", f"its bytes have SHA-256 {image.sha256}, recorded is {record.sha256}")
    if not image.prepared.usable:
        return Recomputed(stored, "different", f"unusable now: {image.prepared.detail}")
    return None


def _record_of(archive: Archive, stored: StoredScore) -> StoredImage:
    return next(i for i in archive.store.images.find(stored.key, stored.line) if i.id == stored.image_id)


def compare(stored: StoredScore, score: ImageScore, calibration: Calibration, tolerance: float) -> Recomputed:
    """Compare a stored judgement with a recomputed one.

    Raw scores may differ by the tolerance, relatively. p-value, normalised score and verdict must be exactly what the
    calibration makes of the stored raw score: they tell of a changed row where the tolerance is wide.
    """
    assert score.raw is not None
    assert stored.raw_score is not None
    assert stored.p_value is not None
    assert stored.normalised_score is not None
    difference = abs(score.raw - stored.raw_score) / max(abs(score.raw), abs(stored.raw_score), 1e-12)
    wrong = []
    if not difference <= tolerance:
        wrong.append(f"raw score {stored.raw_score:.6g} stored, {score.raw:.6g} recomputed")
    raw = np.array([stored.raw_score])
    p_value, normalised = float(calibration.p_value(raw)[0]), float(calibration.normalise(raw)[0])
    verdict = "flagged" if calibration.flagged(raw)[0] else "ok"
    if not abs(stored.p_value - p_value) <= _ROUNDING:
        wrong.append(f"p-value {stored.p_value:.4g} stored, its raw score has {p_value:.4g}")
    if not abs(stored.normalised_score - normalised) <= _ROUNDING:
        wrong.append(f"normalised score {stored.normalised_score:.4g} stored, its raw score has {normalised:.4g}")
    if stored.verdict != verdict:
        wrong.append(f"verdict {stored.verdict} stored, its raw score has {verdict}")
    return Recomputed(stored, "different" if wrong else "equal", "; ".join(wrong), score, difference)
