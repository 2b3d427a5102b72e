"""The audit of one part: everything that is recorded about it, and whether what lies outside still agrees with that.

The report store is what it starts from and cannot do without. The bucket and MLflow are asked whether they still hold
what the records name; where they do not answer, the trace says ``not checked`` and why.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from typing import TypeVar

import pandas as pd

from ganomaly.detector import Detector
from ganomaly.errors import DetectorFileError
from tasks.audit.lookup import Archive, lines_of, nothing_recorded
from tasks.bucket.failures import ObjectStoreError
from tasks.registry.reaching import ModelRegistryError, RegistryUnreachableError
from tasks.registry.registry import ModelRegistry
from tasks.registry.versions import ModelVersion, model_name
from tasks.store.rows import Promotion, Review, ScoringRun, StoredFailure, StoredImage, StoredScore
from tasks.training.snapshot import snapshot_id

NOT_CHECKED = "not checked"

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Check:
    """What a look at an outside system found.

    Attributes:
        state: one short word; ``not checked`` where the system did not answer.
        detail: what was found instead, or why it was not checked; empty where all is as recorded.
    """

    state: str
    detail: str = ""


@dataclass(frozen=True)
class TrainingUse:
    """Whether a model version learned from an image.

    Attributes:
        model_version: of the line's registered model.
        role: ``train``, ``fit`` or ``calibrate``; ``none`` if the image is not in its snapshot; ``not checked``.
        key: of the entry in the snapshot's manifest; another one than the image's if the same bytes lay there too.
    """

    model_version: int
    role: str
    key: str | None = None


@dataclass(frozen=True)
class TracedImage:
    """One version of an object and what was ever said about it.

    Attributes:
        image: as it was recorded.
        in_bucket: ``present``, ``replaced``, ``gone`` or ``not checked``.
        training: for each model version of the trace.
        verdicts: oldest first.
        reviews: oldest first.
    """

    image: StoredImage
    in_bucket: Check
    training: tuple[TrainingUse, ...]
    verdicts: tuple[StoredScore, ...]
    reviews: tuple[Review, ...]


@dataclass(frozen=True)
class TracedModel:
    """A model version that judged, or is champion, and whether MLflow still holds what was recorded.

    Attributes:
        name: of the registered model.
        version: its number.
        calibration_id: with which it judged.
        snapshot_id: of the images it was trained on.
        registered: ``found``, ``absent``, ``differs`` or ``not checked``.
        snapshot: whether its manifest hashes to the snapshot id: ``matches``, ``differs`` or ``not checked``.
        files: whether its files hash to what was saved: ``whole``, ``damaged`` or ``not checked``.
        snapshot_images: how many images the manifest names.
        false_reject_rate: the promise, alpha in (0, 1).
        calibration_images: how many images set the limit.
        reject_limit: raw score above which an image is flagged.
        promise: the same in one sentence.
        recipe: how an image is prepared, in one line.
        mlflow_run_id: of its training.
        code_version: that trained it.
        promotions: when an alias was moved to it, by whom and why; oldest first.
    """

    name: str
    version: int
    calibration_id: str
    snapshot_id: str
    registered: Check
    snapshot: Check
    files: Check
    snapshot_images: int | None
    false_reject_rate: float | None
    calibration_images: int | None
    reject_limit: float | None
    promise: str | None
    recipe: str | None
    mlflow_run_id: str | None
    code_version: str | None
    promotions: tuple[Promotion, ...]


@dataclass(frozen=True)
class LineTrace:
    """What one line's records say about a part.

    Attributes:
        line: its name.
        images: every recorded version of every object of the part, oldest first.
        models: the versions that judged them, and the line's champion.
        runs: the scoring runs that judged them or failed to.
        failures: of these keys in any run, oldest first.
    """

    line: str
    images: tuple[TracedImage, ...]
    models: tuple[TracedModel, ...]
    runs: tuple[ScoringRun, ...]
    failures: tuple[StoredFailure, ...]


@dataclass(frozen=True)
class Trace:
    """Everything about the part or key that was asked for, line by line."""

    asked: str
    traced_at: datetime
    lines: tuple[LineTrace, ...]


class _Source:
    """An outside system that may be away: asked until it does not answer, then never again."""

    def __init__(self, away: type[Exception]) -> None:
        self._away = away
        self._problem = ""

    def ask(self, question: Callable[[], Answer]) -> tuple[Answer | None, str]:
        """The answer, or None and why there is none."""
        if not self._problem:
            try:
                return question(), ""
            except self._away as error:
                self._problem = str(error)
        return None, self._problem


def open_registry(archive: Archive) -> ModelRegistry:
    """MLflow as the settings name it.

    Raises:
        RegistryUnreachableError: if its database cannot be opened.
    """
    return ModelRegistry(archive.settings.mlflow_tracking_uri, archive.settings.mlflow_artifact_root)


def trace(archive: Archive, part_or_key: str, line: str | None = None) -> Trace:
    """Gather everything about a part, or about one key, on one line or on all.

    Raises:
        NothingRecordedError: if there is nothing; says what was looked for and where, and the nearest way out.
    """
    images = archive.store.images.find(part_or_key, line)
    lines = list(dict.fromkeys(image.line for image in images))
    if not lines:  # a key that failed every time has no image
        lines = [name for name in lines_of(archive, line) if archive.store.runs.failures_of_keys(name, [part_or_key])]
    if not lines:
        raise nothing_recorded(archive, part_or_key, line)
    tracer = _Tracer(archive)
    return Trace(
        part_or_key,
        datetime.now(UTC),
        tuple(
            tracer.trace_line(name, [image for image in images if image.line == name], part_or_key) for name in lines
        ),
    )


class _Tracer:
    def __init__(self, archive: Archive) -> None:
        self._archive = archive
        self._bucket = _Source(ObjectStoreError)
        self._mlflow = _Source(RegistryUnreachableError)
        self._opened: ModelRegistry | None = None

    def trace_line(self, line: str, images: Sequence[StoredImage], asked: str) -> LineTrace:
        store = self._archive.store
        ids = [image.id for image in images]
        verdicts, reviews = store.scores.of_images(ids), store.decisions.reviews(ids)
        failures = store.runs.failures_of_keys(line, list(dict.fromkeys(image.key for image in images)) or [asked])
        named = [verdict.run_id for verdict in verdicts] + [failure.run_id for failure in failures]
        runs = sorted((store.runs.get(run_id) for run_id in set(named)), key=lambda run: run.started_at)
        models = self._trace_models(line, verdicts, runs)
        return LineTrace(
            line,
            tuple(
                TracedImage(
                    image,
                    self._look_for(image),
                    tuple(_training_use(model, manifest, image) for model, manifest in models),
                    tuple(verdict for verdict in verdicts if verdict.image_id == image.id),
                    tuple(review for review in reviews if review.image_id == image.id),
                )
                for image in images
            ),
            tuple(model for model, _ in models),
            tuple(runs),
            tuple(failures),
        )

    def _look_for(self, image: StoredImage) -> Check:
        # the first key that begins with this one is this one, if it is there
        def first() -> list[str]:
            listed = islice(self._archive.objects.list_objects(image.key), 1)
            return [found.etag for found in listed if found.key == image.key]

        etags, problem = self._bucket.ask(first)
        if etags is None:
            return Check(NOT_CHECKED, problem)
        if not etags:
            return Check("gone", f"{self._archive.objects.uri(image.key)} is no longer there")
        return Check("present") if etags[0] == image.etag else Check("replaced", f"its ETag is {etags[0]} now")

    def _trace_models(
        self, line: str, verdicts: Sequence[StoredScore], runs: Sequence[ScoringRun]
    ) -> list[tuple[TracedModel, pd.DataFrame | None]]:
        """The versions that judged, and the champion: an image that only trained was judged by none."""
        promotions = self._archive.store.decisions.promotions(line)
        snapshots = {run.model_version: run.snapshot_id for run in runs}
        detectors = dict.fromkeys((verdict.model_version, verdict.calibration_id) for verdict in verdicts)
        champion = next((p.version for p in reversed(promotions) if p.alias == "champion"), None)
        if champion is not None and champion not in {version for version, _ in detectors}:
            detectors[champion, ""] = None
        return [
            self._trace_model(
                line,
                version,
                calibration_id,
                snapshots.get(version, ""),
                tuple(p for p in promotions if p.version == version),
            )
            for version, calibration_id in sorted(detectors)
        ]

    def _trace_model(
        self, line: str, version: int, calibration_id: str, snapshot: str, promotions: tuple[Promotion, ...]
    ) -> tuple[TracedModel, pd.DataFrame | None]:
        found, problem = self._mlflow.ask(lambda: [self._registry().version(line, version)])
        registered = found[0] if found else None
        calibration_id = calibration_id or (registered.calibration_id if registered else "")
        snapshot = snapshot or (registered.snapshot_id if registered else "")
        detector, files = self._load(registered, calibration_id, problem)
        manifest, snapshot_check = self._check_snapshot(registered, snapshot, problem)
        calibration = detector.calibrated if detector else None
        model = TracedModel(
            name=model_name(line),
            version=version,
            calibration_id=calibration_id,
            snapshot_id=snapshot,
            registered=_compare(registered, calibration_id, snapshot, problem),
            snapshot=snapshot_check,
            files=files,
            snapshot_images=None if manifest is None else len(manifest),
            false_reject_rate=calibration.false_reject_rate if calibration else None,
            calibration_images=calibration.n_images if calibration else None,
            reject_limit=calibration.limit if calibration else None,
            promise=calibration.promise if calibration else None,
            recipe=detector.config.recipe.summary if detector else None,
            mlflow_run_id=registered.mlflow_run_id if registered else None,
            code_version=registered.code_version if registered else None,
            promotions=promotions,
        )
        return model, manifest

    def _registry(self) -> ModelRegistry:
        if self._opened is None:
            self._opened = open_registry(self._archive)
        return self._opened

    def _load(self, version: ModelVersion | None, calibration_id: str, problem: str) -> tuple[Detector | None, Check]:
        if version is None:
            return None, Check(NOT_CHECKED, problem or "MLflow has no such version")
        cache = self._archive.settings.work_dir / "models"
        try:
            detector, problem = self._mlflow.ask(lambda: self._registry().load_detector(version, cache, "cpu"))
        except (DetectorFileError, ModelRegistryError) as error:
            return None, Check("damaged", str(error))
        if detector is None:
            return None, Check(NOT_CHECKED, problem)
        if detector.calibrated.id != calibration_id:
            return None, Check("damaged", f"its calibration is {detector.calibrated.id}")
        return detector, Check("whole")

    def _check_snapshot(
        self, version: ModelVersion | None, expected: str, problem: str
    ) -> tuple[pd.DataFrame | None, Check]:
        if version is None:
            return None, Check(NOT_CHECKED, problem or "MLflow has no such version")
        try:
            manifest, problem = self._mlflow.ask(lambda: self._registry().snapshot_manifest(version))
        except ModelRegistryError as error:
            return None, Check("differs", str(error))
        if manifest is None:
            return None, Check(NOT_CHECKED, problem)
        found = snapshot_id(manifest)
        return manifest, Check("matches") if found == expected else Check("differs", f"its manifest hashes to {found}")


def _compare(version: ModelVersion | None, calibration_id: str, snapshot: str, problem: str) -> Check:
    """Whether MLflow records for a version what the report store does."""
    if version is None:
        return Check(NOT_CHECKED, problem) if problem else Check("absent", "MLflow has no such version (any more)")
    wrong = [
        f"MLflow records {name} {theirs}"
        for name, ours, theirs in (
            ("calibration", calibration_id, version.calibration_id),
            ("snapshot", snapshot, version.snapshot_id),
        )
        if ours != theirs
    ]
    return Check("differs", ", ".join(wrong)) if wrong else Check("found")


def _training_use(model: TracedModel, manifest: pd.DataFrame | None, image: StoredImage) -> TrainingUse:
    """What an image was in a snapshot, by its name and otherwise by its content: a copy is the same image."""
    if manifest is None:
        return TrainingUse(model.version, NOT_CHECKED)
    same = manifest[(manifest["key"] == image.key) & (manifest["etag"] == image.etag)]
    if same.empty:
        same = manifest[manifest["sha256"] == image.sha256]
    if same.empty:
        return TrainingUse(model.version, "none")
    return TrainingUse(model.version, same["role"].iloc[0], same["key"].iloc[0])
