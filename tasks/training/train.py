"""Train a line's detector: choose normal images, fix them as a snapshot, train, calibrate, register."""

import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from prefect import task
from prefect.logging import get_run_logger

from ganomaly import Detector, DetectorConfig
from ganomaly.images.preparation import Prepared
from ganomaly.judges.judge import PreparedImages
from ganomaly.networks.training import EpochStats, TrainingConfig
from ganomaly.parts.roles import CROSS, MOST_ALIKE, Plan
from tasks.bucket.failures import ObjectStoreError
from tasks.golden.golden_set import GoldenSetError
from tasks.golden.judging import GoldenJudgements, judge_golden
from tasks.night.drift import compare, in_words
from tasks.night.fetching import FetchedImage, fetch_chunks
from tasks.promotion.alias import PromotionConflictError, make_challenger, move_champion, record_what_is_found
from tasks.registry.reaching import ModelRegistryError
from tasks.registry.training_run import TrainingRun
from tasks.registry.versions import CHALLENGER, CHAMPION, ModelVersion, model_name
from tasks.settings import code_version
from tasks.steps import NETWORK_STEP, ProgressArtifact
from tasks.store.drift import FIGURES
from tasks.systems import Systems
from tasks.training.card import MODEL_PAGE, model_card, version_tags, with_history
from tasks.training.choose import NormalImages
from tasks.training.figures import calibration_figure, golden_figure, loss_figure, reconstruction_figure
from tasks.training.snapshot import COLUMNS, snapshot_id


@dataclass(frozen=True)
class Snapshot:
    """The images that a detector is trained on, prepared.

    Attributes:
        id: content hash of the manifest, 16 hexadecimal digits.
        manifest: columns key, etag, sha256, part, role; by key.
        prepared: all images, in the order of the plan.
        plan: how the images were dealt out, and how many parts they are.
        chosen: the images that it was made from, and those that were left out.
        days: number of images by production date.
    """

    id: str
    manifest: pd.DataFrame
    prepared: list[Prepared]
    plan: Plan
    chosen: NormalImages
    days: dict[str, int]


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


@task(name="take-snapshot", persist_result=False)
def take_snapshot(systems: Systems, config: DetectorConfig, chosen: NormalImages) -> Snapshot:
    """Fetch and prepare the images, split the usable ones by part, and fix the result as a snapshot.

    Raises:
        TrainingDataError: if they cannot train or calibrate the detector as asked.
    """
    logger, images = get_run_logger(), chosen.images
    fetched: list[FetchedImage] = []
    for found, failed in fetch_chunks(systems.objects, images, systems.line.scoring, config.recipe, config.quality):
        fetched += [replace(one, data=b"") for one in found]  # of large images, all at once are too many
        for failure in failed:
            logger.warning("%s %s: not trained on: %s", failure.image.key, failure.reason, failure.detail)
        logger.info("%d of %d training images fetched", len(fetched), len(images))
    prepared = [found.prepared for found in fetched]
    parts = [f"{found.image.production_date} {found.image.part}" for found in fetched]  # names may come again
    plan = Detector(config, device="cpu").plan(prepared, parts)
    logger.info("%s; part ids and near-duplicates united", plan.summary)
    if plan.warning is not None:
        logger.warning("%s", plan.warning)
    for at in plan.suspects:
        logger.warning("%s not trained on: looks least like all others; look at it", fetched[at].image.key)
    manifest = pd.DataFrame(
        [
            (found.image.key, found.image.etag, found.sha256, found.image.part, role)
            for found, role in zip(fetched, plan.roles, strict=True)
            if role
        ],
        columns=list(COLUMNS),
    )
    dealt = [found for found, role in zip(fetched, plan.roles, strict=True) if role]
    days = dict(Counter(str(found.image.production_date) for found in dealt))
    more = {
        f"near-duplicates of {MOST_ALIKE} others": plan.surplus,
        "look least like all others (calibration.trim)": len(plan.suspects),
    }
    left_out = {**chosen.left_out, **{reason: count for reason, count in more.items() if count}}
    return Snapshot(snapshot_id(manifest), manifest, prepared, plan, replace(chosen, left_out=left_out), days)


@task(name="compare-snapshots", **NETWORK_STEP, persist_result=False)
def compare_snapshots(systems: Systems, snapshot: Snapshot) -> tuple[str, ...]:
    """What is not like the champion's snapshot: the camera or the process changed, or another choice was made."""
    champion = systems.registry.champion(systems.line.name)
    if champion is None:
        return ()
    try:
        before = systems.registry.snapshot_manifest(champion)
    except ModelRegistryError as error:
        get_run_logger().warning("the new snapshot is not compared with the champion's: %s", error)
        return ()
    new, old = (
        systems.store.drift.figures(systems.line.name, list(zip(manifest["key"], manifest["etag"], strict=True)))
        for manifest in (snapshot.manifest, before)
    )
    records = [compare(name, new[name], old[name], old["production_date"]) for name in FIGURES]
    said = tuple(in_words(record) for record in records if record is not None and record.changed)
    for words in said:
        get_run_logger().warning("the new snapshot is not like that of %s: %s", champion.uri, words)
    return said


@task(name="train-detector", tags=["gpu"], persist_result=False)
def train_detector(
    systems: Systems, config: DetectorConfig, snapshot: Snapshot, changes: Sequence[str], device: str
) -> TrainedModel:
    """Train and calibrate on the snapshot and register the result, all in one MLflow run.

    What is not like the champion's snapshot is told on the version's page.
    """
    line = systems.line.name
    detector = Detector(config, device=device, snapshot_id=snapshot.id)
    tags = {"line": line, "snapshot_id": snapshot.id, "code_version": code_version()}
    with systems.registry.training_run(line, f"{line} {snapshot.id[:8]}", tags) as run:
        run.log_params(config.model_dump(exclude={"recipe": {"reference": {"pixels"}}}))  # MLflow takes 6,000 letters
        run.log_snapshot(snapshot.manifest, snapshot.id, systems.objects.uri(systems.line.images.prefix))
        history = _train(detector, snapshot, run)
        return _register(systems, detector, snapshot, changes, history, run)


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
    systems: Systems,
    detector: Detector,
    snapshot: Snapshot,
    changes: Sequence[str],
    history: Sequence[EpochStats],
    run: TrainingRun,
) -> TrainedModel:
    calibration = detector.calibrated
    images = dict(Counter(snapshot.manifest["role"]))
    run.log_metrics(
        {
            "reject_limit": calibration.limit,
            "calibration_images": calibration.n_images,
            "parts": snapshot.plan.n_parts,
            **{f"images_{role}": count for role, count in images.items()},
        }
    )
    golden, found = _judge_golden(systems, detector), None
    if golden is not None and (found := golden.evaluation("new")) is not None:
        run.log_metrics(
            {
                "golden_auroc": found.auroc,
                "golden_false_reject_rate": found.false_reject_rate,
                "golden_escape_rate": found.escape_rate,
            }
        )
        run.log_figure(golden_figure(golden.judged.scores["new"], golden.defective_n), "golden")
    run.log_figure(loss_figure(history), "losses")
    run.log_figure(calibration_figure(calibration), "calibration")
    run.log_figure(_held_out_figure(detector, snapshot), "held_out")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "detector"
        detector.save(folder)
        example = _judged_images(detector, snapshot)[0]
        ok, example_png = cv2.imencode(".png", example[..., ::-1])  # OpenCV writes BGR
        assert ok
        tags = version_tags(detector, systems.line.name) | {
            "images": str(sum(images.values())),
            "golden_auroc": f"{found.auroc:.4f}" if found else "none",
        }
        version = run.log_model(folder, example_png.tobytes(), tags, model_name(systems.line.name))
    card = model_card(
        systems.line.name,
        detector,
        chosen=snapshot.chosen,
        roles=images,
        days=snapshot.days,
        changes=changes,
        golden=golden,
    )
    systems.registry.describe(version, card, {})
    systems.registry.describe_model(systems.line.name, MODEL_PAGE.format(line=systems.line.name))
    return TrainedModel(version, snapshot.id, images, calibration.limit, calibration.promise)


def _judge_golden(systems: Systems, detector: Detector) -> GoldenJudgements | None:
    """The new detector on the golden set; None where that cannot be read: hours of training are not lost for it."""
    try:
        return judge_golden(systems, {"new": detector})
    except (ObjectStoreError, GoldenSetError) as error:
        get_run_logger().warning("not judged on the golden set: %s", error)
        return None


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


@task(name="assign-alias", **NETWORK_STEP, persist_result=False)
def assign_alias(systems: Systems, version: ModelVersion, who: str) -> str:
    """Make the version champion where the line never had one, otherwise challenger; the promotion is recorded.

    A champion that was deleted in MLflow is replaced by a person, not by the next training.

    Raises:
        ModelRegistryError: the line's champion is gone; the version is registered as challenger.
    """
    line = systems.line.name
    champion, before = systems.registry.champion(line), systems.store.decisions.last_promotion(line)
    if champion is not None and champion.version == version.version:  # tried again after it was moved
        record_what_is_found(systems)
        _tell_status(systems, version)
        return CHAMPION
    if champion is None and before is None:
        try:
            move_champion(systems, version, None, who=who, why="first model of the line")
        except PromotionConflictError:  # another training was faster
            pass
        else:
            _tell_status(systems, version)
            return CHAMPION
    make_challenger(systems, version)
    if champion is None and before is not None and before.version != version.version:
        raise ModelRegistryError(
            f"{version.name} has no champion, but had version {before.version} since {before.promoted_at:%Y-%m-%d}: "
            f"somebody deleted it or its alias. Version {version.version} is registered as challenger; "
            f"`inspection promote {line} --version N --without-gate REASON` makes version N the champion"
        )
    return CHALLENGER


def _tell_status(systems: Systems, version: ModelVersion) -> None:
    """Let the page of a new champion say so."""
    rows = [row for row in systems.store.decisions.promotions(systems.line.name) if row.version == version.version]
    systems.registry.describe(version, with_history(systems.registry.description(version), rows), {"status": CHAMPION})
