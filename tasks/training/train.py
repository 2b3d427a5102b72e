"""Train a line's detector: choose normal images, fix them as a snapshot, train, calibrate, register."""

import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger

from ganomaly import Detector, DetectorConfig, TrainingDataError
from ganomaly.images.preparation import LOOKED_AT, Prepared, fit_recipe
from ganomaly.judges.judge import PreparedImages
from ganomaly.networks.training import EpochStats, TrainingConfig
from ganomaly.parts.roles import CROSS, Plan, plan_roles
from tasks.bucket.failures import ObjectChangedError, ObjectMissingError
from tasks.lines.window import Window
from tasks.night.fetching import FetchedImage, fetch_chunks
from tasks.night.listing import ListedImage
from tasks.registry.reaching import ModelRegistryError
from tasks.registry.training_run import TrainingRun
from tasks.registry.versions import CHALLENGER, CHAMPION, ModelVersion, model_name
from tasks.settings import code_version
from tasks.steps import NETWORK_STEP, ProgressArtifact
from tasks.systems import Systems
from tasks.training.figures import calibration_figure, loss_figure, reconstruction_figure
from tasks.training.normal_list import read_normal_list
from tasks.training.snapshot import COLUMNS, snapshot_id


@dataclass(frozen=True)
class Snapshot:
    """The images that a detector is trained on, prepared.

    Attributes:
        id: content hash of the manifest, 16 hexadecimal digits.
        manifest: columns key, etag, sha256, part, role; by key.
        prepared: all images, in the order of the plan.
        plan: how the images were dealt out, and how many parts they are.
    """

    id: str
    manifest: pd.DataFrame
    prepared: list[Prepared]
    plan: Plan


@dataclass(frozen=True)
class TrainedModel:
    """What a training ended with."""

    version: ModelVersion
    snapshot_id: str
    images: dict[str, int]
    reject_limit: float
    promise: str

    def as_markdown(self, alias: str) -> str:
        """The model in one screen, for the Prefect UI."""
        rows = "\n".join(f"| images to {role} | {count} |" for role, count in sorted(self.images.items()))
        return (
            f"# {self.version.uri} (@{alias})\n\n{self.promise}\n\n| | |\n| --- | ---: |\n{rows}\n"
            f"| reject limit | {self.reject_limit:.4f} |\n| snapshot | {self.snapshot_id} |\n"
            f"| MLflow run | {self.version.mlflow_run_id} |\n"
        )


def with_overrides(config: DetectorConfig, *, epochs: int | None, seed: int | None) -> DetectorConfig:
    """The configuration with another number of epochs or another seed, validated like the line's file.

    Raises:
        pydantic.ValidationError: for a value out of range.
    """
    changes = {name: value for name, value in (("epochs", epochs), ("seed", seed)) if value is not None}
    training = TrainingConfig.model_validate(config.training.model_dump() | changes)
    return config.model_copy(update={"training": training})


@task(name="choose-normal-images", **NETWORK_STEP, cache_policy=NO_CACHE, persist_result=False)
def choose_normal_images(systems: Systems, window: Window | None) -> tuple[ListedImage, ...]:
    """The recorded images of the window and, where the line keeps a list, only those known to be normal.

    Whether they are fit to judge is found out anew by the recipe that trains: it may have changed since.

    Raises:
        TrainingDataError: if there are none; says where they were looked for.
    """
    line = systems.line
    start, end = (window.start, window.end) if window else (date.min, date.max)
    where = f"line {line.name}, {window or 'all dates'}"
    recorded = systems.store.images.recorded(line.name, start, end)
    if recorded.empty:
        raise TrainingDataError(
            f"no images to train on: the report store knows no image of {where}; "
            f"record them first with `inspection ingest {line.name}`"
        )
    if line.images.normal_list is not None:
        normal = read_normal_list(systems)
        found, recorded = len(recorded), recorded[recorded["key"].isin(normal)]
        if recorded.empty:
            raise TrainingDataError(
                f"no images to train on: of {found} recorded images of {where} none is among the {len(normal)} keys of "
                f"{systems.objects.uri(line.images.normal_list)}"
            )
    # a key that was replaced in the bucket has several rows: only the newest can still be fetched
    newest = recorded.sort_values(["key", "captured_at"]).drop_duplicates("key", keep="last")
    return tuple(
        ListedImage(row.key, row.etag, row.part, row.view, row.production_date, row.captured_at, int(row.size_bytes))
        for row in newest.itertuples()
    )


@task(name="decide-recipe", **NETWORK_STEP, cache_policy=NO_CACHE, persist_result=False)
def decide_recipe(systems: Systems, config: DetectorConfig, images: Sequence[ListedImage]) -> DetectorConfig:
    """The configuration with what its recipe leaves to the line's images decided; some of them are looked at."""
    if not config.recipe.is_open:
        return config
    some = [images[at] for at in np.linspace(0, len(images) - 1, min(len(images), LOOKED_AT)).astype(int)]
    found = []
    for image in some:
        try:
            found.append(systems.objects.get_listed(image.key, image.etag))
        except (ObjectMissingError, ObjectChangedError):  # the snapshot will say so
            continue
    recipe = fit_recipe(config.recipe, found)
    get_run_logger().info("recipe: %s", recipe.summary)
    return config.model_copy(update={"recipe": recipe})


@task(name="take-snapshot", cache_policy=NO_CACHE, persist_result=False)
def take_snapshot(systems: Systems, config: DetectorConfig, images: Sequence[ListedImage]) -> Snapshot:
    """Fetch and prepare the images, split the usable ones by part, and fix the result as a snapshot.

    Raises:
        TrainingDataError: if they cannot train or calibrate the detector as asked.
    """
    logger = get_run_logger()
    fetched: list[FetchedImage] = []
    for found, failed in fetch_chunks(systems.objects, images, systems.line.scoring, config.recipe, config.quality):
        fetched += [replace(one, data=b"") for one in found]  # of large images, all at once are too many
        for failure in failed:
            logger.warning("%s %s: not trained on: %s", failure.image.key, failure.reason, failure.detail)
        logger.info("%d of %d training images fetched", len(fetched), len(images))
    prepared = [found.prepared for found in fetched]
    parts = [found.image.part for found in fetched]
    plan = plan_roles(prepared, parts, config.calibration, config.training.seed)
    logger.info("%s; part ids and near-duplicates united", plan.summary)
    if plan.warning is not None:
        logger.warning("%s", plan.warning)
    manifest = pd.DataFrame(
        [
            (found.image.key, found.image.etag, found.sha256, found.image.part, role)
            for found, role in zip(fetched, plan.roles, strict=True)
            if role
        ],
        columns=list(COLUMNS),
    )
    return Snapshot(snapshot_id(manifest), manifest, prepared, plan)


@task(name="train-detector", tags=["gpu"], cache_policy=NO_CACHE, persist_result=False)
def train_detector(systems: Systems, config: DetectorConfig, snapshot: Snapshot, device: str) -> TrainedModel:
    """Train and calibrate on the snapshot and register the result, all in one MLflow run."""
    line = systems.line.name
    detector = Detector(config, device=device, snapshot_id=snapshot.id)
    tags = {"line": line, "snapshot_id": snapshot.id, "code_version": code_version()}
    with systems.registry.training_run(line, f"{line} {snapshot.id[:8]}", tags) as run:
        run.log_params(config.model_dump(exclude={"recipe": {"reference": {"pixels"}}}))  # MLflow takes 6,000 letters
        run.log_snapshot(snapshot.manifest, snapshot.id, systems.objects.uri(systems.line.images.prefix))
        history = _train(detector, snapshot, run)
        return _register(systems, detector, snapshot, history, run)


def _train(detector: Detector, snapshot: Snapshot, run: TrainingRun) -> list[EpochStats]:
    logger = get_run_logger()
    history: list[EpochStats] = []
    progress = ProgressArtifact("training", "epochs")
    for stats in detector.learn(snapshot.prepared, snapshot.plan):
        run.log_epoch(stats)
        history.append(stats)
        progress.update(stats.epoch, stats.epochs)
        logger.info(
            "epoch %d of %d: L_adv %.4f, L_con %.4f, L_enc %.4f, discriminator %.4f, %.0f images/s",
            stats.epoch,
            stats.epochs,
            stats.loss_adversarial,
            stats.loss_contextual,
            stats.loss_encoder,
            stats.loss_discriminator,
            stats.images_per_s,
        )
    return history


def _register(
    systems: Systems, detector: Detector, snapshot: Snapshot, history: Sequence[EpochStats], run: TrainingRun
) -> TrainedModel:
    calibration = detector.calibration
    assert calibration is not None
    images = dict(Counter(snapshot.manifest["role"]))
    run.log_metrics(
        {
            "reject_limit": calibration.limit,
            "calibration_images": calibration.n_images,
            "parts": snapshot.plan.n_parts,
            **{f"images_{role}": count for role, count in images.items()},
        }
    )
    run.log_figure(loss_figure(history), "losses")
    run.log_figure(calibration_figure(calibration), "calibration")
    run.log_figure(_held_out_figure(detector, snapshot), "held_out")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "detector"
        detector.save(folder)
        example = _judged_images(detector, snapshot)[0]
        ok, example_png = cv2.imencode(".png", example[..., ::-1])  # OpenCV writes BGR
        assert ok
        tags = {
            "snapshot_id": snapshot.id,
            "calibration_id": calibration.id,
            "code_version": code_version(),
            "false_reject_rate": str(calibration.false_reject_rate),
            "guaranteed_rate": f"{calibration.guaranteed_rate:.4f}",
            "input": detector.config.input,
            "looks": detector.judge.summary or "",
        }
        version = run.log_model(folder, example_png.tobytes(), tags, model_name(systems.line.name))
    return TrainedModel(version, snapshot.id, images, calibration.limit, calibration.promise)


def _judged_images(detector: Detector, snapshot: Snapshot) -> PreparedImages:
    """The images that set the limit."""
    return detector.stack(snapshot.prepared, np.isin(snapshot.plan.roles, ("calibrate", CROSS)))  # noqa: PD013 - no table


def _held_out_figure(detector: Detector, snapshot: Snapshot) -> Figure:
    pixels = _judged_images(detector, snapshot)
    scores = detector.raw_scores(pixels)
    order = np.argsort(scores)
    shown = order[np.linspace(0, len(order) - 1, num=min(8, len(order))).round().astype(int)]
    images = np.stack([pixels[at] for at in shown])
    return reconstruction_figure(images, detector.heat_maps(images), scores[shown].tolist())


@task(name="assign-alias", **NETWORK_STEP, cache_policy=NO_CACHE, persist_result=False)
def assign_alias(systems: Systems, version: ModelVersion, who: str) -> str:
    """Make the version champion where the line never had one, otherwise challenger; the promotion is recorded.

    A champion that was deleted in MLflow is replaced by a person, not by the next training.

    Raises:
        ModelRegistryError: the line's champion is gone; the version is registered as challenger.
    """
    champion = systems.registry.champion(systems.line.name)
    if champion is not None and champion.version != version.version:
        systems.registry.set_alias(version, CHALLENGER)
        return CHALLENGER
    before = systems.store.decisions.last_promotion(systems.line.name)
    if champion is None and before is not None and before.version != version.version:
        systems.registry.set_alias(version, CHALLENGER)
        raise ModelRegistryError(
            f"{version.name} has no champion, but had version {before.version} since {before.promoted_at:%Y-%m-%d}: "
            f"somebody deleted it or its alias. Version {version.version} is registered as challenger; in MLflow, give "
            "the alias champion to the version that is to judge"
        )
    if champion is None:
        systems.registry.set_alias(version, CHAMPION)
        systems.store.decisions.record_promotion(
            systems.line.name,
            model_name=version.name,
            alias=CHAMPION,
            version=version.version,
            previous_version=None,
            who=who,
            why="first model of the line",
        )
    return CHAMPION
