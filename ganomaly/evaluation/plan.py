"""From experiments to jobs: one job is one method trained on one data set with one class unseen and one seed."""

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, get_args

from ganomaly.config import DetectorConfig
from ganomaly.evaluation import baselines
from ganomaly.evaluation.protocols import DataSet
from ganomaly.networks.build import ModelConfig

NETWORKS: tuple[str, ...] = get_args(ModelConfig.model_fields["kind"].annotation)
BASELINES: tuple[str, ...] = tuple(baselines.BASELINES)
METHODS = (*NETWORKS, *BASELINES)
MAPPED = ("ganomaly", "patch_gaussian", "pixel_gaussian")
"""The methods whose heat maps are measured."""
MAIN = "main"
"""The study that compares methods; the others vary one setting of GANomaly and are named after it."""
FORMAT = 2
"""Raised when what a job does changes in a way that its settings do not say: rows of an older format are not reused."""

COST = {"aae": 0.4, "anogan": 0.5}
"""Of a training step, next to GANomaly and EGBAD: measured at 64 px, only for how much of the whole is done."""

COST_OF_DRAWN = 60
"""An image with all sorts of defects, next to a training step of one image."""

Sources = Mapping[str, Callable[[], DataSet]]
"""How to load each data set, by its name in tables."""


@dataclass(frozen=True)
class Limits:
    """How many images of a data set take part; None for all.

    Attributes:
        train_images: normal images that train, fit and calibrate together.
        test_normal: normal images that test.
        test_abnormal: abnormal images that test.
    """

    train_images: int | None = None
    test_normal: int | None = None
    test_abnormal: int | None = None


@dataclass(frozen=True)
class Experiment:
    """Methods on one data set with the same settings.

    Attributes:
        data: name of the data set.
        classes: the labels that are abnormal, one after the other.
        seeds: each deals out the images and draws the weights.
        methods: of `METHODS`.
        config: of the detector; kind of model and seed are put in for each job.
        limits: how many images take part.
        study: `MAIN`, or the name of the setting that is varied.
        value: of the setting that is varied.
        note: what a reader of the table must know about these rows.
        drawn_images: so many good test images get defects of every kind, which heat maps must find; 0 measures none.
    """

    data: str
    classes: tuple[str, ...]
    seeds: tuple[int, ...]
    methods: tuple[str, ...]
    config: DetectorConfig
    limits: Limits = Limits()
    study: str = MAIN
    value: float | None = None
    note: str = ""
    drawn_images: int = 0


@dataclass(frozen=True)
class Job:
    """One training and test: what makes one row of the table, or one for each score of the same networks.

    Attributes:
        method: of `METHODS`.
        data: name of the data set.
        abnormal_class: the label that is abnormal.
        seed: deals out the images and draws the weights.
        config: of the detector, with kind of model and seed.
        limits: how many images take part.
        study: `MAIN`, or the name of the setting that is varied.
        value: of the setting that is varied.
        note: for the reader of the table.
        fingerprint: of the data's files; empty for data sets that never change.
        drawn_images: so many good test images get defects of every kind; 0 for methods without heat maps.
    """

    method: str
    data: str
    abnormal_class: str
    seed: int
    config: DetectorConfig
    limits: Limits
    study: str = MAIN
    value: float | None = None
    note: str = ""
    fingerprint: str = ""
    drawn_images: int = 0

    @property
    def is_network(self) -> bool:
        """Whether the method is trained, and no baseline."""
        return self.method in NETWORKS

    @property
    def group(self) -> tuple[str, float | None, str, str]:
        """Jobs that differ in class and seed only, and so may share a mean: study, value, data and method."""
        return self.study, self.value, self.data, self.method

    @cached_property
    def settings_id(self) -> str:
        """Hash of all that decides a result but class and seed, 12 hexadecimal digits.

        Of a baseline only what it depends on: other epochs do not make another baseline.
        """
        config = self.config.model_dump(mode="json")
        config["training"].pop("seed")
        if not self.is_network:
            config = {name: config[name] for name in ("recipe", "calibration")}
        said: dict[str, Any] = {"group": self.group, "config": config, "limits": asdict(self.limits)}
        said |= {"fingerprint": self.fingerprint, "format": FORMAT}
        if self.drawn_images:
            said["drawn_images"] = self.drawn_images
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:12]

    @property
    def name(self) -> str:
        """Names the job's files; two jobs share it only if they are the same job."""
        study = [] if self.study == MAIN else [f"{self.study}={self.value:g}"]
        words = [self.data, self.abnormal_class, self.method, *study, f"seed{self.seed}", self.settings_id]
        return "-".join("".join(letter if letter.isalnum() or letter in "_=." else "_" for letter in w) for w in words)

    @property
    def title(self) -> str:
        """The job for people."""
        study = "" if self.study == MAIN else f", {self.study} {self.value:g}"
        return f"{self.data} {self.abnormal_class}, {self.method}{study}, seed {self.seed}"

    @property
    def cost(self) -> float:
        """About how long it takes, in no unit: only for how much of the whole is done."""
        recipe, n = self.config.recipe, self.limits.train_images or 50_000
        tested = sum(limit or min(5_000, n) for limit in (self.limits.test_normal, self.limits.test_abnormal))
        pixels = recipe.size_px * recipe.size_px / 1024
        drawn = self.drawn_images * COST_OF_DRAWN * pixels
        if not self.is_network:
            return (n + tested) * pixels * 0.02 + drawn
        steps = self.config.model.search_steps if self.method == "anogan" else 1
        passes = self.config.training.epochs * n + tested * steps * 0.3
        return passes * pixels * math.sqrt(self.config.network.features / 32) ** 3 * COST.get(self.method, 1.0) + drawn


def plan_jobs(experiments: Iterable[Experiment], fingerprints: Mapping[str, str] | None = None) -> tuple[Job, ...]:
    """All jobs, those of one class and seed together so that they share prepared images; each job once.

    Args:
        experiments: what to run.
        fingerprints: of the data sets whose files may change, by name.
    """
    known = fingerprints or {}
    jobs = {
        job.name: job
        for experiment in experiments
        for seed in experiment.seeds
        for abnormal_class in experiment.classes
        for method in experiment.methods
        for job in [_job(experiment, method, abnormal_class, seed, known.get(experiment.data, ""))]
    }
    return tuple(jobs.values())


def _job(experiment: Experiment, method: str, abnormal_class: str, seed: int, fingerprint: str) -> Job:
    return Job(
        method=method,
        data=experiment.data,
        abnormal_class=abnormal_class,
        seed=seed,
        config=with_method(experiment.config, method, seed),
        limits=experiment.limits,
        study=experiment.study,
        value=experiment.value,
        note=experiment.note,
        fingerprint=fingerprint,
        drawn_images=experiment.drawn_images if method in MAPPED else 0,
    )


def with_method(config: DetectorConfig, method: str, seed: int) -> DetectorConfig:
    """The configuration with another kind of model, whose own score it then has, and another seed."""
    said = config.model_dump()
    said["training"]["seed"] = seed
    if method in NETWORKS:
        said["model"]["kind"] = method
        if method != "ganomaly":
            said.pop("score")
    return DetectorConfig.model_validate(said)


@dataclass(frozen=True)
class Choice:
    """What a user asks for instead of what a preset says; None leaves it as it is.

    Attributes:
        methods: only these.
        data: only these data sets.
        classes: only these labels, where a data set has any of them.
        seeds: these.
        epochs: of training.
        size_px: of the recipe.
        features: of the networks.
        train_images: at most so many.
        test_images: at most so many normal and so many abnormal ones.
    """

    methods: tuple[str, ...] | None = None
    data: tuple[str, ...] | None = None
    classes: tuple[str, ...] | None = None
    seeds: tuple[int, ...] | None = None
    epochs: int | None = None
    size_px: int | None = None
    features: int | None = None
    train_images: int | None = None
    test_images: int | None = None

    def apply(self, experiments: Sequence[Experiment]) -> tuple[Experiment, ...]:
        """The experiments that are left, as asked.

        Raises:
            ValueError: for a method, data set or class that no experiment has, or if nothing is left.
        """
        _check("method", self.methods, {method for e in experiments for method in e.methods})
        _check("data set", self.data, {e.data for e in experiments})
        _check("class", self.classes, {label for e in experiments for label in e.classes})
        chosen = (self._narrowed(e) for e in experiments if self.data is None or e.data in self.data)
        left = tuple(experiment for experiment in chosen if experiment.methods and experiment.classes)
        if not left:
            raise ValueError("nothing is left to run: no chosen method runs on a chosen data set and class")
        return left

    def _narrowed(self, experiment: Experiment) -> Experiment:
        classes = experiment.classes
        # by name, over all experiments of the data set: AnoGAN's two digits are not replaced by a third
        if self.classes is not None and not _one_class(experiment):
            classes = tuple(label for label in classes if label in self.classes)
        limits = experiment.limits
        if self.train_images is not None:
            limits = replace(limits, train_images=self.train_images)
        if self.test_images is not None:
            limits = replace(limits, test_normal=self.test_images, test_abnormal=self.test_images)
        return replace(
            experiment,
            methods=tuple(m for m in experiment.methods if self.methods is None or m in self.methods),
            classes=classes,
            seeds=experiment.seeds if self.seeds is None else self.seeds,
            config=self._changed(experiment.config),
            limits=limits,
        )

    def _changed(self, config: DetectorConfig) -> DetectorConfig:
        said = config.model_dump()
        asked = (
            ("training", "epochs", self.epochs),
            ("recipe", "size_px", self.size_px),
            ("network", "features", self.features),
        )
        for table, key, value in asked:
            if value is not None:
                said[table][key] = value
        return DetectorConfig.model_validate(said)


def _one_class(experiment: Experiment) -> bool:
    """Whether the data set knows good and bad only, so that there is no class to choose."""
    return experiment.classes == ("abnormal",)


def _check(what: str, asked: Sequence[str] | None, known: set[str]) -> None:
    if unknown := set(asked or ()) - known:
        raise ValueError(f"{what} {', '.join(sorted(unknown))}: not in this preset; it has {', '.join(sorted(known))}")


def fingerprint(data: DataSet) -> str:
    """Hash of the files of a data set by name, size and time of change: other files make other rows."""
    digest = hashlib.sha256()
    for image, label, part in zip(data.images, data.labels.tolist(), data.parts.tolist(), strict=True):
        if isinstance(image, Path):
            stat = image.stat()
            digest.update(repr((image.as_posix(), stat.st_size, stat.st_mtime_ns, label, part)).encode())
    return digest.hexdigest()[:12]
