"""The paper's comparison: jobs, rows that outlive a kill, tables and figures, on gratings that are drawn."""

import csv
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from ganomaly import Detector, DetectorConfig
from ganomaly.evaluation.datasets import DataSet
from ganomaly.evaluation.paper.experiments import (
    CIFAR_CLASSES,
    DIGITS,
    METHODS,
    PRESETS,
    Experiment,
    Job,
    Limits,
    narrow,
    plan_jobs,
    with_setting,
)
from ganomaly.evaluation.paper.figures import draw_all
from ganomaly.evaluation.paper.jobs import Sources, deal_out, run_jobs, unfinished
from ganomaly.evaluation.paper.rows import Row, read_arrays, read_rows
from ganomaly.evaluation.paper.tables import compare, write_markdown
from ganomaly.evaluation.tables import write_csv

LIMITS = Limits(train_images=80, test_normal=20, test_abnormal=18)


@pytest.fixture(scope="module")
def sources(draw_parts: Callable[..., list[np.ndarray]]) -> Sources:
    """Two data sets: gratings of which some have a spot, and the same as one class of two."""
    images = np.array([*draw_parts(110, seed=5), *draw_parts(30, seed=6, defect=True)])
    parts = np.arange(140).astype(np.str_)
    inspection = np.array(["normal"] * 110 + ["abnormal"] * 30)
    classes = np.array(["plain"] * 70 + ["dim"] * 40 + ["spot"] * 30)
    return {
        "parts": lambda: DataSet("parts", images, inspection, parts),
        "kinds": lambda: DataSet("kinds", images, classes, parts),
    }


@pytest.fixture(scope="module")
def config(tiny_config: DetectorConfig) -> DetectorConfig:
    """The smallest networks; gratings are of one kind, and the split is not what is tested here."""
    return with_setting(tiny_config, "calibration", "near_duplicates", "ignore")


@pytest.fixture(scope="module")
def experiments(config: DetectorConfig) -> list[Experiment]:
    """All methods on both data sets, and short studies of latent size and one weight."""
    whole = Experiment("parts", ("abnormal",), (0, 1), METHODS, config, LIMITS, search_steps=3, note="tiny networks")
    studied = replace(whole, seeds=(0,), methods=("ganomaly",))
    return [
        whole,
        Experiment("kinds", ("dim", "spot"), (0,), ("ganomaly", "egbad", "pixel_gaussian"), config, LIMITS),
        *(
            replace(studied, config=with_setting(config, table, key, value), study=key, value=value)
            for table, key, value in (
                ("network", "latent_size", 4),
                ("network", "latent_size", 8),
                ("training", "weight_encoder", 0.0),
                ("training", "weight_encoder", 2.0),
            )
        ),
    ]


def run(jobs: list[Job], sources: Sources, folder: Path) -> list[list[Row]]:
    """Run jobs to their end; the rows of each."""
    return [news for _, news in run_jobs(jobs, sources, folder, device="cpu") if isinstance(news, list)]


@pytest.fixture(scope="module")
def finished(
    experiments: list[Experiment], sources: Sources, tmp_path_factory: pytest.TempPathFactory
) -> tuple[list[Job], Path]:
    """All jobs and the folder with their rows; tests only read it."""
    jobs, folder = plan_jobs(experiments), tmp_path_factory.mktemp("paper")
    for rows in run(jobs, sources, folder):
        assert rows[0].error is None, rows[0].error
    return jobs, folder


def test_rows_say_what_was_measured_and_where(finished: tuple[list[Job], Path]) -> None:
    """A row would belong to other scores than those saved beside it, or not say how it was made."""
    jobs, folder = finished
    rows = read_rows(folder, jobs)
    assert {row.job for row in rows} == {job.name for job in jobs}
    for row in rows:
        arrays = read_arrays(folder, row.job)
        assert row.auroc == roc_auc_score(arrays["abnormal"], arrays[f"score_{row.score}"])
        assert row.images == "56 train, 8 fit, 16 calibrate, 20 normal and 18 abnormal test"
        assert "cores of" in row.machine
        assert row.score_ms_per_image is not None
        assert row.score_ms_per_image > 0
        assert row.duration_s >= (row.train_s or 0)
    assert {"ganomaly (paper)", "egbad", "anogan", "aae", "nearest_image"} <= {row.label for row in rows}
    (flagging,) = {row.score for row in rows if row.method == "ganomaly" and row.flagging}
    assert flagging == DetectorConfig().score.method


def test_the_comparison_measures_the_detector_itself(
    finished: tuple[list[Job], Path], sources: Sources, config: DetectorConfig
) -> None:
    """Training, statistics or scores in the table would be others than those of the detector a user gets."""
    jobs, folder = finished
    job = next(job for job in jobs if job.method == "ganomaly" and job.experiment.data == "parts" and job.seed == 1)
    assert job.config.training.seed == 1
    images = deal_out(sources["parts"](), job)
    detector = Detector(job.config, device="cpu")
    for _ in detector.train(images.train):
        pass
    detector.calibrate(np.concatenate([images.train, images.fit]), images.calibrate)
    saved = read_arrays(folder, job.name)
    np.testing.assert_array_equal(saved[f"score_{config.score.method}"], detector.raw_scores(images.test))
    np.testing.assert_array_equal(saved["abnormal"], images.abnormal_m)


@pytest.mark.parametrize(("near_duplicates", "apart"), [("group", True), ("ignore", False)])
def test_twins_stay_on_one_side(near_duplicates: str, apart: bool, tiny_config: DetectorConfig) -> None:
    """Neighbours would be asked about images whose twins they know, and every figure on elpv-poly be too good."""
    images = np.repeat(np.random.default_rng(0).integers(0, 256, (60, 32, 32), dtype=np.uint8), 2, axis=0)
    labels = np.repeat(np.array(["normal"] * 50 + ["abnormal"] * 10), 2)
    twins = DataSet("twins", images, labels, np.arange(120).astype(np.str_))
    config = with_setting(tiny_config, "calibration", "near_duplicates", near_duplicates)
    (job,) = plan_jobs([Experiment("twins", ("abnormal",), (0,), ("pixel_gaussian",), config)])
    dealt = deal_out(twins, job)
    contents = [{image.tobytes() for image in side} for side in (dealt.train, dealt.fit, dealt.calibrate, dealt.test)]
    assert (sum(map(len, contents)) == len(set.union(*contents))) is apart


def test_no_image_is_on_two_sides(sources: Sources, config: DetectorConfig) -> None:
    """A method would be tested, or its limit set, on images that it has learned."""
    job = plan_jobs([Experiment("parts", ("abnormal",), (3,), ("ganomaly",), config, LIMITS)])[0]
    images = deal_out(sources["parts"](), job)
    together = np.concatenate([images.train, images.fit, images.calibrate, images.test])
    assert len({image.tobytes() for image in together}) == len(together) == 80 + 38


def test_a_second_run_does_only_what_is_missing(
    experiments: list[Experiment], sources: Sources, tmp_path: Path
) -> None:
    """Hours of finished work would be done again, or work in progress be lost without being repeated."""
    jobs = plan_jobs([replace(experiments[1], classes=("spot",))])
    events = run_jobs(jobs, sources, tmp_path, device="cpu")
    for job, news in events:
        if job == jobs[1] and not isinstance(news, list):
            break  # as Ctrl-C does, in the middle of the second job
    events.close()
    assert unfinished(jobs, tmp_path) == jobs[1:]
    before = (tmp_path / "runs" / f"{jobs[0].name}.json").stat().st_mtime_ns
    assert [rows[0].job for rows in run(unfinished(jobs, tmp_path), sources, tmp_path)] == [j.name for j in jobs[1:]]
    assert unfinished(jobs, tmp_path) == []
    assert (tmp_path / "runs" / f"{jobs[0].name}.json").stat().st_mtime_ns == before
    assert not [path for path in (tmp_path / "runs").iterdir() if path.name.startswith(".")]


def test_changed_settings_are_other_jobs(experiments: list[Experiment], sources: Sources, tmp_path: Path) -> None:
    """A row of other settings would be passed off as one of these, or enter their mean."""
    base = [replace(experiments[1], classes=("spot",))]
    before, after = plan_jobs(base), plan_jobs(narrow(base, epochs=2))
    run(before, sources, tmp_path)
    left = unfinished(after, tmp_path)
    assert [job.method for job in left] == ["ganomaly", "egbad"]  # a baseline has no epochs
    run(left, sources, tmp_path)
    for jobs, wanted in ((after, "2 epochs"), (before, "1 epochs"), ([], "2 epochs")):  # without jobs the newest
        (row,) = (row for row in read_rows(tmp_path, jobs) if row.method == "egbad")
        assert wanted in row.settings
    assert len([row for row in read_rows(tmp_path, after) if row.method == "pixel_gaussian"]) == 1


def test_what_decides_a_result_names_the_job(config: DetectorConfig) -> None:
    """Two different trainings would share one file; the same training by another route would be done twice."""
    base = Experiment("parts", ("abnormal",), (0,), ("ganomaly",), config, LIMITS)
    changed = [
        base,
        replace(base, data="kinds"),
        replace(base, classes=("spot",)),
        replace(base, seeds=(1,)),
        replace(base, methods=("egbad",)),
        replace(base, limits=Limits(train_images=81)),
        replace(base, study="latent_size", value=16.0),
        replace(base, study="latent_size", value=4.0),
        *(
            replace(base, config=with_setting(config, table, key, value))
            for table, key, value in (("recipe", "size_px", 48), ("training", "epochs", 3), ("network", "features", 16))
        ),
    ]
    names = [job.name for experiment in changed for job in plan_jobs([experiment])]
    assert len(set(names)) == len(names)
    assert plan_jobs([base, base, replace(base, note="said differently")])[0].name == names[0]
    assert len(plan_jobs([base, base])) == 1
    one, two = plan_jobs([replace(base, seeds=(0, 1))])
    assert one.settings_id == two.settings_id
    quick, thorough = (replace(base, methods=("anogan",), search_steps=steps) for steps in (5, 500))
    assert plan_jobs([quick])[0].name != plan_jobs([thorough])[0].name


def test_a_job_that_fails_is_a_row_and_the_others_run(config: DetectorConfig, sources: Sources, tmp_path: Path) -> None:
    """One class that cannot be run would take a night of others with it, or be missing without a word."""
    jobs = plan_jobs([Experiment("kinds", ("nothing", "spot"), (0,), ("aae",), config, LIMITS)])
    ((bad,), (good,)) = run(jobs, sources, tmp_path)
    assert bad.error is not None
    assert "abnormal = 'nothing': kinds has the labels dim, plain, spot" in bad.error
    assert bad.auroc is None
    assert good.error is None
    assert unfinished(jobs, tmp_path) == [jobs[0]]  # it is tried again
    write_markdown(read_rows(tmp_path, jobs), tmp_path / "results.md", command="ganomaly paper", figures=[])
    assert "abnormal = 'nothing'" in (tmp_path / "results.md").read_text().split("## Failed")[1]


def test_diverged_training_is_a_row(config: DetectorConfig, sources: Sources, tmp_path: Path) -> None:
    """Training that blows up would end the comparison."""
    wild = with_setting(with_setting(config, "training", "learning_rate", 1.0), "training", "weight_contextual", 1e39)
    jobs = plan_jobs([Experiment("parts", ("abnormal",), (0,), ("ganomaly", "pixel_gaussian"), wild, LIMITS)])
    (bad, good) = run(jobs, sources, tmp_path)
    assert bad[0].error is not None
    assert bad[0].error.startswith("TrainingDivergedError: training diverged in epoch 1")
    assert good[0].error is None


def test_a_damaged_file_is_named(config: DetectorConfig, tmp_path: Path) -> None:
    """A file that somebody edited would end in a traceback, or count as done."""
    (job,) = plan_jobs([Experiment("parts", ("abnormal",), (0,), ("aae",), config, LIMITS)])
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / f"{job.name}.json").write_text('[{"auroc": 1}]')
    with pytest.raises(ValueError, match=rf"{job.name}.json: holds no rows .* delete it to run it again"):
        unfinished([job], tmp_path)


def test_tables_hold_everything(finished: tuple[list[Job], Path], tmp_path: Path) -> None:
    """The page that people read would lack a data set, a method or a study, and a program a field."""
    jobs, folder = finished
    rows = read_rows(folder, jobs)
    write_csv(rows, tmp_path / "results.csv")
    with (tmp_path / "results.csv").open(encoding="utf-8", newline="") as file:
        read = list(csv.DictReader(file))
    assert read == [{key: "" if value is None else str(value) for key, value in asdict(row).items()} for row in rows]
    write_markdown(rows, tmp_path / "results.md", command="ganomaly paper -o x", figures=["figures/a.png"])
    text = (tmp_path / "results.md").read_text()
    assert f"Made by `ganomaly paper -o x`: {len(jobs)} jobs" in text
    kinds, parts = text.split("## kinds")[1].split("## parts")
    assert "| method | dim | spot | mean | ms per image | training s |" in kinds
    assert "tiny networks" in parts
    assert "| **ganomaly (fused)** |" in parts
    mean = next(row for row in parts.splitlines() if row.startswith("| nearest_image |"))
    scores = [row.auroc for row in rows if row.method == "nearest_image" and row.auroc is not None]
    assert f"| {np.mean(scores):.3f} ± {np.std(scores, ddof=1):.3f} |" in mean
    assert "## AUROC against latent_size" in text
    assert "| data | class | score | 4 | 8 |" in text
    assert "![a](figures/a.png)" in text


def test_means_are_over_whole_seeds() -> None:
    """A mean over the easy classes of an unfinished seed would stand beside whole ones."""
    nothing = dict.fromkeys(Row.__dataclass_fields__)
    said = {"study": "main", "method": "egbad", "score": "egbad", "flagging": True, "data": "made_up"}
    found = ((0, "1", 0.0), (0, "2", 0.5), (1, "2", 0.9))
    rows = [Row(**{**nothing, **said, "abnormal_class": c, "seed": s, "auroc": auroc}) for s, c, auroc in found]
    (comparison,) = compare(rows)
    mean, two = comparison.mean("egbad"), comparison.mean("egbad", "2")
    assert mean is not None
    assert (mean.value, mean.deviation, mean.seeds) == (0.25, None, 1)
    assert two is not None
    assert (two.value, two.seeds) == (0.7, 2)
    assert two.deviation == pytest.approx(0.2828, abs=1e-4)
    assert comparison.mean("anogan") is None


def test_figures_show_something(finished: tuple[list[Job], Path], tmp_path: Path) -> None:
    """A figure of the paper would be missing or empty."""
    jobs, folder = finished
    (tmp_path / "stale.png").write_bytes(b"of an earlier run")
    written = draw_all(read_rows(folder, jobs), folder, tmp_path)
    names = {path.stem for path in written}
    pictured = {f"{kind}-{of}" for kind in ("scores", "tsne", "reconstructions") for of in ("parts", "kinds-spot")}
    assert {"auroc-lines", "auroc-kinds", "time-parts", "latent-size", "loss-weights"} | pictured <= names
    assert set(tmp_path.iterdir()) == set(written)
    for path in written:
        picture = cv2.imread(str(path))
        assert picture is not None
        assert min(picture.shape[:2]) > 200
        inside = picture[picture.shape[0] // 5 : -picture.shape[0] // 5, picture.shape[1] // 5 : -picture.shape[1] // 5]
        assert (inside != 255).any(axis=2).mean() > 0.001, path.name


def test_choices_narrow_a_preset() -> None:
    """`--methods`, `--data` and `--classes` would run something else, or nothing in silence."""
    short = PRESETS["short"]
    jobs = plan_jobs(narrow(short, methods=["ganomaly", "anogan"], classes=["2", "3"]))
    assert {(job.experiment.data, job.abnormal_class, job.method) for job in jobs} == {
        ("mnist", "2", "ganomaly"),
        ("mnist", "3", "ganomaly"),
        ("mnist", "2", "anogan"),
        ("elpv-mono", "abnormal", "ganomaly"),
        ("elpv-poly", "abnormal", "ganomaly"),
    }
    assert {job.seed for job in plan_jobs(narrow(short, seeds=[5]))} == {5}
    only = plan_jobs(narrow(short, data=["elpv-poly"], epochs=2))
    assert {(job.experiment.data, job.config.training.epochs) for job in only} == {("elpv-poly", 2)}
    for wrong in ({"methods": ["vae"]}, {"data": ["cifar10"]}, {"classes": ["bird"]}):
        with pytest.raises(ValueError, match="not in this preset; it has"):
            narrow(short, **wrong)
    with pytest.raises(ValueError, match="nothing is left"):
        narrow(short, methods=["anogan"], data=["elpv-mono"])


def test_presets_hold_what_they_promise() -> None:
    """The short or the full form of the paper's experiment would lack digits, seeds or methods."""
    short = plan_jobs(PRESETS["short"])
    encoders = {"ganomaly", "egbad", "aae"}
    for method in encoders:
        mine = [job for job in short if job.method == method]
        assert {job.abnormal_class for job in mine if job.experiment.data == "mnist"} == set(DIGITS)
        assert {(job.experiment.data, job.seed) for job in mine if job.experiment.data != "mnist"} == {
            (line, seed) for line in ("elpv-mono", "elpv-poly") for seed in range(3)
        }
    assert len({job.abnormal_class for job in short if job.method == "anogan"}) == 2
    full = plan_jobs(PRESETS["full"])
    digits = [job for job in full if job.experiment.data == "mnist"]
    assert {(j.abnormal_class, j.seed) for j in digits if j.method == "ganomaly"} == {
        (digit, seed) for digit in DIGITS for seed in range(3)
    }
    assert {job.abnormal_class for job in full if job.experiment.data == "cifar10"} == set(CIFAR_CLASSES)
    assert all(job.experiment.limits == Limits() for job in digits if job.method in encoders)
    studied = {job.experiment.study for name in ("latent", "weights") for job in plan_jobs(PRESETS[name])}
    assert studied == {"latent_size", "weight_adversarial", "weight_contextual", "weight_encoder"}
