"""What the benchmark runs, as data: settings for each data set, and the presets built of them.

Change a data set's settings in the tables below; everything else follows.
"""

from typing import Any

from ganomaly.config import DetectorConfig
from ganomaly.evaluation.plan import BASELINES, Experiment, Limits

DIGITS = tuple("0123456789")
CIFAR_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
INSPECTION = ("abnormal",)
"""The one class of data that is good or bad."""
ENCODERS = ("ganomaly", "egbad", "aae")
"""The networks that judge an image in one pass."""


def _config(**tables: dict[str, Any]) -> DetectorConfig:
    # AUROC needs no limit: few images are held back, and the rate is one that they can always promise
    # digits and photos have no near-duplicates worth the time to look for them among tens of thousands
    calibration = {
        "fit_fraction": 0.05,
        "calibrate_fraction": 0.05,
        "false_reject_rate": 0.2,
        "near_duplicates": "ignore",
    }
    return DetectorConfig.model_validate({"calibration": calibration, **tables})


# --- settings for each data set -------------------------------------------------------------------------------------

MNIST_SHORT = _config(recipe={"size_px": 32, "illumination": "none"}, network={"features": 32}, training={"epochs": 3})
MNIST_SHORT_LIMITS = Limits(train_images=10_000, test_normal=2_000, test_abnormal=2_000)
"""10,000 images: 9,000 train, 500 fit and 500 calibrate."""

ELPV_CALIBRATION = {"fit_fraction": 0.1, "calibrate_fraction": 0.1, "false_reject_rate": 0.2}
ELPV_NOTE = "near-duplicates on one side of every split"
"""Twins, such as cells of neighbouring wafers, would tell nearest neighbours what the test images look like."""
ELPV_SHORT = {
    "elpv-mono": _config(recipe={"size_px": 64, "window": 1.0}, network={"features": 32}, calibration=ELPV_CALIBRATION),
    "elpv-poly": _config(recipe={"size_px": 64, "window": 1.0}, network={"features": 32}, calibration=ELPV_CALIBRATION),
}
ELPV_LIMITS = Limits(train_images=752)
"""All of them: 470 of mono, 736 of poly; a number for the progress bar only."""
DRAWN_IMAGES = 8
"""Good test images of each seed that get each of 54 sorts of defects, on data of inspection."""

ANOGAN_SHORT_DIGITS = ("2", "9")
ANOGAN_SHORT_LIMITS = Limits(train_images=10_000, test_normal=200, test_abnormal=200)
ANOGAN_SHORT_STEPS = 100
ANOGAN_SHORT_NOTE = "200 normal and 200 abnormal test images, 100 search steps instead of 500"

MNIST_FULL = _config(recipe={"size_px": 32, "illumination": "none"}, training={"epochs": 15})
CIFAR10_FULL = _config(recipe={"size_px": 32, "channels": 3, "illumination": "none"}, training={"epochs": 15})
ELPV_FULL = _config(recipe={"size_px": 128, "window": 1.0}, training={"epochs": 40}, calibration=ELPV_CALIBRATION)
ANOGAN_FULL_LIMITS = Limits(test_normal=1_000, test_abnormal=1_000)
ANOGAN_FULL_NOTE = "1,000 normal and 1,000 abnormal test images"

OWN_DATA = ELPV_SHORT["elpv-mono"]
"""For folders and tables that a user names."""

STUDY_DIGITS = ("2", "9")
LATENT_SIZES = (4, 16, 64, 100, 256)
WEIGHTS: dict[str, tuple[float, ...]] = {
    "weight_adversarial": (0.0, 0.1, 1.0, 10.0, 50.0),
    "weight_contextual": (0.0, 1.0, 10.0, 50.0, 200.0),
    "weight_encoder": (0.0, 0.1, 1.0, 10.0, 50.0),
}
"""The paper's figure of them varies each while the others stay at their defaults (1, 50, 1)."""

SMOKE = _config(
    recipe={"size_px": 32},
    network={"features": 8, "latent_size": 16},
    training={"epochs": 2},
    model={"search_steps": 5},
    calibration={**ELPV_CALIBRATION, "near_duplicates": "ignore"},
)
SMOKE_LIMITS = Limits(train_images=100, test_normal=24, test_abnormal=24)

# --- what is built of them ------------------------------------------------------------------------------------------


def with_setting(config: DetectorConfig, table: str, key: str, value: float) -> DetectorConfig:
    """The configuration with one setting changed."""
    said = config.model_dump()
    said[table][key] = value
    return DetectorConfig.model_validate(said)


def _short() -> tuple[Experiment, ...]:
    everything = (*ENCODERS, *BASELINES)
    anogan = with_setting(MNIST_SHORT, "model", "search_steps", ANOGAN_SHORT_STEPS)
    elpv = (
        Experiment(
            name, INSPECTION, (0, 1, 2), everything, config, ELPV_LIMITS, note=ELPV_NOTE, drawn_images=DRAWN_IMAGES
        )
        for name, config in ELPV_SHORT.items()
    )
    return (
        *elpv,
        Experiment("mnist", DIGITS, (0,), everything, MNIST_SHORT, MNIST_SHORT_LIMITS),
        Experiment(
            "mnist", ANOGAN_SHORT_DIGITS, (0,), ("anogan",), anogan, ANOGAN_SHORT_LIMITS, note=ANOGAN_SHORT_NOTE
        ),
    )


def _full() -> tuple[Experiment, ...]:
    seeds = (0, 1, 2)
    everything = (*ENCODERS, *BASELINES)
    photos = (("mnist", DIGITS, MNIST_FULL), ("cifar10", CIFAR_CLASSES, CIFAR10_FULL))
    experiments: list[Experiment] = []
    for data, classes, config in photos:
        experiments += [
            Experiment(data, classes, seeds, everything, config),
            Experiment(data, classes, seeds, ("anogan",), config, ANOGAN_FULL_LIMITS, note=ANOGAN_FULL_NOTE),
        ]
    lines = ("elpv-mono", "elpv-poly")
    methods = (*everything, "anogan")
    elpv = (
        Experiment(line, INSPECTION, seeds, methods, ELPV_FULL, ELPV_LIMITS, note=ELPV_NOTE, drawn_images=DRAWN_IMAGES)
        for line in lines
    )
    return (*experiments, *elpv)


def _study(
    data: str, classes: tuple[str, ...], base: DetectorConfig, limits: Limits, table: str, key: str, values: Any
) -> tuple[Experiment, ...]:
    return tuple(
        Experiment(
            data,
            classes,
            (0,),
            ("ganomaly",),
            with_setting(base, table, key, value),
            limits,
            study=key,
            value=float(value),
        )
        for value in values
    )


def _latent() -> tuple[Experiment, ...]:
    return _study("mnist", STUDY_DIGITS, MNIST_SHORT, MNIST_SHORT_LIMITS, "network", "latent_size", LATENT_SIZES)


def _weights() -> tuple[Experiment, ...]:
    studies = (
        _study("mnist", STUDY_DIGITS, MNIST_SHORT, MNIST_SHORT_LIMITS, "training", key, values)
        for key, values in WEIGHTS.items()
    )
    return tuple(experiment for study in studies for experiment in study)


def _smoke() -> tuple[Experiment, ...]:
    methods = (*ENCODERS, "anogan", *BASELINES)
    on_mnist = with_setting(SMOKE, "recipe", "illumination", "none")  # type: ignore[arg-type]
    cells = ("elpv-mono", INSPECTION, SMOKE, SMOKE_LIMITS)
    return (
        Experiment(
            "elpv-mono",
            INSPECTION,
            (0,),
            methods,
            SMOKE,
            SMOKE_LIMITS,
            note="a smoke test, not a result",
            drawn_images=2,
        ),
        Experiment("mnist", ("2",), (0,), methods, on_mnist, SMOKE_LIMITS, note="a smoke test, not a result"),
        *_study(*cells, "network", "latent_size", (4, 16)),
        *_study(*cells, "training", "weight_encoder", (0.0, 1.0)),
    )


PRESETS = {"short": _short(), "full": _full(), "smoke": _smoke(), "latent": _latent(), "weights": _weights()}


def own_data(name: str) -> Experiment:
    """All methods but AnoGAN on data that a user names, with three seeds."""
    return Experiment(name, INSPECTION, (0, 1, 2), (*ENCODERS, *BASELINES), OWN_DATA, drawn_images=DRAWN_IMAGES)
