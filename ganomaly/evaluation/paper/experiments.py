"""What the paper's comparison runs, as data: change a data set's settings in the tables below, all else follows.

An experiment becomes jobs; one job is one method trained on one data set with one class unseen and one seed.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from ganomaly.config import DetectorConfig
from ganomaly.evaluation.baselines import BASELINES
from ganomaly.evaluation.paper.anogan import SEARCH_STEPS

ENCODERS = ("ganomaly", "egbad", "aae")
"""The networks that judge an image in one pass."""
NETWORKS = (*ENCODERS, "anogan")
METHODS = (*NETWORKS, *BASELINES)
MAIN = "main"
"""The study that compares methods; the others vary one setting of GANomaly and are named after it."""
FORMAT = 3
"""Raised when what a job does changes in a way that its settings do not say: rows of an older format are not reused."""


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
        config: of the detector; the seed is put in for each job.
        limits: how many images take part.
        search_steps: of AnoGAN, for each image.
        study: `MAIN`, or the name of the setting that is varied.
        value: of the setting that is varied.
        note: what a reader of the table must know about these rows.
    """

    data: str
    classes: tuple[str, ...]
    seeds: tuple[int, ...]
    methods: tuple[str, ...]
    config: DetectorConfig
    limits: Limits = Limits()
    search_steps: int = SEARCH_STEPS
    study: str = MAIN
    value: float | None = None
    note: str = ""


@dataclass(frozen=True)
class Job:
    """One training and test: what makes one row of the table, or one for each score of the same networks.

    Attributes:
        method: of `METHODS`.
        abnormal_class: the label that is abnormal.
        seed: deals out the images and draws the weights.
        experiment: all the rest.
    """

    method: str
    abnormal_class: str
    seed: int
    experiment: Experiment

    @property
    def config(self) -> DetectorConfig:
        """The experiment's configuration with this job's seed."""
        return with_setting(self.experiment.config, "training", "seed", self.seed)

    @property
    def settings_id(self) -> str:
        """Hash of all that decides a result but class and seed, 12 hexadecimal digits.

        Of a baseline only what it depends on: other epochs do not make another baseline.
        """
        said, config = self.experiment, self.experiment.config.model_dump(mode="json")
        if self.method not in NETWORKS:
            config = {name: config[name] for name in ("recipe", "calibration")}
        steps = said.search_steps if self.method == "anogan" else None
        named = [FORMAT, self.method, said.data, said.study, said.value, asdict(said.limits), steps, config]
        return hashlib.sha256(json.dumps(named, sort_keys=True).encode()).hexdigest()[:12]

    @property
    def name(self) -> str:
        """Names the job's files; two jobs share it only if they are the same job."""
        said = self.experiment
        study = [] if said.study == MAIN else [f"{said.study}={said.value:g}"]
        return "-".join([said.data, self.abnormal_class, self.method, *study, f"seed{self.seed}", self.settings_id])

    @property
    def title(self) -> str:
        """The job for people."""
        said = self.experiment
        study = "" if said.study == MAIN else f", {said.study} {said.value:g}"
        return f"{said.data} {self.abnormal_class}, {self.method}{study}, seed {self.seed}"


def plan_jobs(experiments: Iterable[Experiment]) -> list[Job]:
    """All jobs, those of one class and seed together so that they share prepared images; each job once."""
    jobs = (
        Job(method, abnormal_class, seed, experiment)
        for experiment in experiments
        for seed in experiment.seeds
        for abnormal_class in experiment.classes
        for method in experiment.methods
    )
    return list({job.name: job for job in jobs}.values())


def narrow(
    experiments: Sequence[Experiment],
    *,
    methods: Sequence[str] | None = None,
    data: Sequence[str] | None = None,
    classes: Sequence[str] | None = None,
    seeds: Sequence[int] | None = None,
    epochs: int | None = None,
) -> list[Experiment]:
    """What a user asks for of experiments; None leaves it as it is. Classes do not concern data that is good or bad.

    Raises:
        ValueError: for a method, data set or class that no experiment has, or if nothing is left.
    """
    _check("method", methods, {method for e in experiments for method in e.methods})
    _check("data set", data, {e.data for e in experiments})
    _check("class", classes, {label for e in experiments for label in e.classes})
    left = [
        replace(
            experiment,
            methods=tuple(m for m in experiment.methods if methods is None or m in methods),
            classes=tuple(c for c in experiment.classes if classes is None or c in classes or c == "abnormal"),
            seeds=experiment.seeds if seeds is None else tuple(seeds),
            config=experiment.config
            if epochs is None
            else with_setting(experiment.config, "training", "epochs", epochs),
        )
        for experiment in experiments
        if data is None or experiment.data in data
    ]
    left = [experiment for experiment in left if experiment.methods and experiment.classes]
    if not left:
        raise ValueError("nothing is left to run: no chosen method runs on a chosen data set and class")
    return left


def _check(what: str, asked: Sequence[str] | None, known: set[str]) -> None:
    if unknown := set(asked or ()) - known:
        raise ValueError(f"{what} {', '.join(sorted(unknown))}: not in this preset; it has {', '.join(sorted(known))}")


def with_setting(config: DetectorConfig, table: str, key: str, value: Any) -> DetectorConfig:
    """The configuration with one setting changed."""
    said = config.model_dump()
    said[table][key] = value
    return DetectorConfig.model_validate(said)


def _config(**tables: dict[str, Any]) -> DetectorConfig:
    # AUROC needs no limit: few images are held back, and the rate is one that they can always promise
    # digits and photos have no near-duplicates worth the time to look for them among tens of thousands
    calibration = {
        "statistics_fraction": 0.05,
        "calibrate_fraction": 0.05,
        "false_reject_rate": 0.2,
        "near_duplicates": "ignore",
    }
    return DetectorConfig.model_validate({"calibration": calibration, **tables})


# --- settings for each data set -------------------------------------------------------------------------------------

DIGITS = tuple("0123456789")
CIFAR_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
INSPECTION = ("abnormal",)
"""The one class of data that is good or bad."""
LINES = ("elpv-mono", "elpv-poly")
SEEDS = (0, 1, 2)
EVERYTHING = (*ENCODERS, *BASELINES)
"""All methods but AnoGAN, which takes seconds for an image."""

MNIST_SHORT = _config(recipe={"size_px": 32, "illumination": "none"}, network={"features": 32}, training={"epochs": 3})
MNIST_SHORT_LIMITS = Limits(train_images=10_000, test_normal=2_000, test_abnormal=2_000)
ANOGAN_SHORT_LIMITS = Limits(train_images=10_000, test_normal=200, test_abnormal=200)
ANOGAN_SHORT_STEPS = 100
MNIST_FULL = _config(recipe={"size_px": 32, "illumination": "none"}, training={"epochs": 15})
CIFAR10_FULL = _config(recipe={"size_px": 32, "channels": 3, "illumination": "none"}, training={"epochs": 15})
ANOGAN_FULL_LIMITS = Limits(test_normal=1_000, test_abnormal=1_000)

CELLS_CALIBRATION = {"statistics_fraction": 0.1, "calibrate_fraction": 0.1, "false_reject_rate": 0.2}
CELLS_SHORT = _config(recipe={"size_px": 64, "window": 1.0}, network={"features": 32}, calibration=CELLS_CALIBRATION)
CELLS_FULL = _config(recipe={"size_px": 128, "window": 1.0}, training={"epochs": 40}, calibration=CELLS_CALIBRATION)
TWINS_APART = "near-duplicates on one side of every split"
"""Twins, such as cells of neighbouring wafers, would tell nearest neighbours what the test images look like."""

STUDY_DIGITS = ("2", "9")
STUDIES: dict[str, tuple[str, tuple[float, ...]]] = {
    "latent_size": ("network", (4, 16, 64, 100, 256)),
    "weight_adversarial": ("training", (0.0, 0.1, 1.0, 10.0, 50.0)),
    "weight_contextual": ("training", (0.0, 1.0, 10.0, 50.0, 200.0)),
    "weight_encoder": ("training", (0.0, 0.1, 1.0, 10.0, 50.0)),
}
"""Table of each setting and the values that the paper's figures try, while all others stay at their defaults."""

SMOKE = _config(
    recipe={"size_px": 32},
    network={"features": 8, "latent_size": 16},
    training={"epochs": 2},
    calibration={**CELLS_CALIBRATION, "near_duplicates": "ignore"},
)
SMOKE_LIMITS = Limits(train_images=100, test_normal=24, test_abnormal=24)
SMOKE_NOTE = "a smoke test, not a result"

# --- what is built of them ------------------------------------------------------------------------------------------


def _short() -> list[Experiment]:
    digits = Experiment("mnist", DIGITS, (0,), EVERYTHING, MNIST_SHORT, MNIST_SHORT_LIMITS)
    note = f"200 normal and 200 abnormal test images, {ANOGAN_SHORT_STEPS} search steps instead of {SEARCH_STEPS}"
    searched = Experiment(
        "mnist", STUDY_DIGITS, (0,), ("anogan",), MNIST_SHORT, ANOGAN_SHORT_LIMITS, ANOGAN_SHORT_STEPS, note=note
    )
    cells = [Experiment(line, INSPECTION, SEEDS, EVERYTHING, CELLS_SHORT, note=TWINS_APART) for line in LINES]
    return [*cells, digits, searched]


def _full() -> list[Experiment]:
    experiments = []
    for data, classes, config in (("mnist", DIGITS, MNIST_FULL), ("cifar10", CIFAR_CLASSES, CIFAR10_FULL)):
        note = "1,000 normal and 1,000 abnormal test images"
        experiments += [
            Experiment(data, classes, SEEDS, EVERYTHING, config),
            Experiment(data, classes, SEEDS, ("anogan",), config, ANOGAN_FULL_LIMITS, note=note),
        ]
    return [
        *experiments,
        *(Experiment(line, INSPECTION, SEEDS, METHODS, CELLS_FULL, note=TWINS_APART) for line in LINES),
    ]


def _study(base: Experiment, key: str, values: Iterable[float] | None = None) -> list[Experiment]:
    """GANomaly with each value of one setting."""
    table, usual = STUDIES[key]
    return [
        replace(
            base, methods=("ganomaly",), config=with_setting(base.config, table, key, value), study=key, value=value
        )
        for value in values or usual
    ]


def _smoke() -> list[Experiment]:
    cells = Experiment("elpv-mono", INSPECTION, (0,), METHODS, SMOKE, SMOKE_LIMITS, 5, note=SMOKE_NOTE)
    digits = replace(cells, data="mnist", classes=("2",), config=with_setting(SMOKE, "recipe", "illumination", "none"))
    return [cells, digits, *_study(cells, "latent_size", (4, 16)), *_study(cells, "weight_encoder", (0.0, 1.0))]


_STUDIED = Experiment("mnist", STUDY_DIGITS, (0,), EVERYTHING, MNIST_SHORT, MNIST_SHORT_LIMITS)

PRESETS: dict[str, list[Experiment]] = {
    "short": _short(),
    "full": _full(),
    "smoke": _smoke(),
    "latent": _study(_STUDIED, "latent_size"),
    "weights": [e for key in STUDIES if key.startswith("weight_") for e in _study(_STUDIED, key)],
}
