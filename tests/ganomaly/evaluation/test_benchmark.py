"""The benchmark: jobs, rows that outlive anything, tables, sentences and figures, on gratings that are drawn."""

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import roc_auc_score

from ganomaly import Detector, DetectorConfig
from ganomaly.evaluation.baselines import PatchGaussian
from ganomaly.evaluation.drawn_defects import KINDS
from ganomaly.evaluation.figures import draw_all
from ganomaly.evaluation.localisation import WithoutNetwork, measure_localisation
from ganomaly.evaluation.paper.presets import CIFAR_CLASSES, DIGITS, PRESETS, with_setting
from ganomaly.evaluation.plan import MAPPED, METHODS, Choice, Experiment, Job, Limits, Sources, fingerprint, plan_jobs
from ganomaly.evaluation.protocols import DataSet, from_folders
from ganomaly.evaluation.results import compare, statements, write_markdown, write_parquet
from ganomaly.evaluation.rows import Row, RowStore, choose_rows
from ganomaly.evaluation.run import EpochDone, Finished, Started, run_jobs, unfinished
from ganomaly.evaluation.trial import deal_out

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
    """The smallest networks; AnoGAN searches for three steps."""
    said = with_setting(tiny_config, "model", "search_steps", 3).model_dump()
    said["calibration"]["near_duplicates"] = "ignore"  # gratings are of one kind; the split is not what is tested here
    return DetectorConfig.model_validate(said)


@pytest.fixture(scope="module")
def experiments(config: DetectorConfig) -> tuple[Experiment, ...]:
    """All methods on both data sets, and short studies of latent size and one weight."""
    return (
        Experiment("parts", ("abnormal",), (0, 1), METHODS, config, LIMITS, note="tiny networks", drawn_images=2),
        Experiment("kinds", ("dim", "spot"), (0,), ("ganomaly", "egbad", "pixel_gaussian"), config, LIMITS),
        *(
            Experiment(
                "parts",
                ("abnormal",),
                (0,),
                ("ganomaly",),
                with_setting(config, table, key, value),
                LIMITS,
                study=key,
                value=value,
            )
            for table, key, value in (
                ("network", "latent_size", 4),
                ("network", "latent_size", 8),
                ("training", "weight_encoder", 0.0),
                ("training", "weight_encoder", 2.0),
            )
        ),
    )


def run(jobs: tuple[Job, ...] | list[Job], sources: Sources, folder: Path) -> list[Finished]:
    """Run jobs to their end."""
    events = run_jobs(jobs, sources, folder, device="cpu", code_version="1.2.3+gabc.dirty")
    return [event for event in events if isinstance(event, Finished)]


@pytest.fixture(scope="module")
def finished(
    experiments: tuple[Experiment, ...], sources: Sources, tmp_path_factory: pytest.TempPathFactory
) -> tuple[tuple[Job, ...], Path]:
    """All jobs and the folder with their rows; tests only read it."""
    jobs, folder = plan_jobs(experiments), tmp_path_factory.mktemp("benchmark")
    for event in run(jobs, sources, folder):
        assert event.error is None, event.error
    return jobs, folder


def test_rows_say_what_was_measured_and_where(finished: tuple[tuple[Job, ...], Path]) -> None:
    """A row would belong to other scores than those saved beside it, or not say how it was made."""
    jobs, folder = finished
    store = RowStore(folder)
    rows = store.rows()
    assert {row.job for row in rows} == {job.name for job in jobs}
    for row in rows:
        arrays = store.arrays(row.job)
        assert row.auroc == roc_auc_score(arrays["abnormal"], arrays[f"score_{row.score}"])
        assert (row.test_normal, row.test_abnormal) == (20, 18)
        assert (row.train_images, row.fit_images, row.calibrate_images) == (56, 8, 16)
        assert row.code_version == "1.2.3+gabc.dirty"
        assert row.cpu
        assert row.cores >= 1
        assert row.score_ms_per_image is not None
        assert row.score_ms_per_image > 0
        assert row.duration_s >= (row.train_s or 0)
    labels = {row.label for row in rows if row.data == "parts"}
    assert {"ganomaly (paper)", "egbad", "anogan", "aae", "nearest_image"} <= labels
    (flagging,) = {row.score for row in rows if row.method == "ganomaly" and row.flagging}
    assert flagging == DetectorConfig().score.method


def test_the_benchmark_measures_the_detector_itself(
    finished: tuple[tuple[Job, ...], Path], sources: Sources, config: DetectorConfig
) -> None:
    """Training, statistics or scores in the table would be others than those of the detector a user gets."""
    jobs, folder = finished
    job = next(job for job in jobs if job.method == "ganomaly" and job.data == "parts" and job.seed == 1)
    assert job.config.training.seed == 1
    images = deal_out(sources["parts"](), job)
    detector = Detector(job.config, device="cpu")
    for _ in detector.train(images.train_nhwc):
        pass
    detector.calibrate(np.concatenate([images.train_nhwc, images.fit_nhwc]), images.calibrate_nhwc)
    saved = RowStore(folder).arrays(job.name)
    np.testing.assert_array_equal(saved[f"score_{config.score.method}"], detector.raw_scores(images.test_nhwc))
    np.testing.assert_array_equal(saved["abnormal"], images.abnormal_m)


@pytest.mark.parametrize(("near_duplicates", "apart"), [("group", True), ("ignore", False)])
def test_twins_stay_on_one_side(near_duplicates: str, apart: bool, tiny_config: DetectorConfig) -> None:
    """Neighbours would be asked about images whose twins they know, and every figure on elpv-poly be too good."""
    images = np.repeat(np.random.default_rng(0).integers(0, 256, (60, 32, 32), dtype=np.uint8), 2, axis=0)
    labels = np.repeat(np.array(["normal"] * 50 + ["abnormal"] * 10), 2)
    twins = DataSet("twins", images, labels, np.arange(120).astype(np.str_))
    said = tiny_config.model_dump()
    said["calibration"] |= {"near_duplicates": near_duplicates, "false_reject_rate": 0.2}
    config = DetectorConfig.model_validate(said)
    (job,) = plan_jobs([Experiment("twins", ("abnormal",), (0,), ("pixel_gaussian",), config)])
    dealt = deal_out(twins, job)
    sides = (dealt.train_nhwc, dealt.fit_nhwc, dealt.calibrate_nhwc, dealt.test_nhwc)
    contents = [{image.tobytes() for image in side} for side in sides]
    assert (sum(map(len, contents)) == len(set.union(*contents))) is apart


def test_no_image_is_on_two_sides(sources: Sources, config: DetectorConfig) -> None:
    """A method would be tested, or its limit set, on images that it has learned."""
    job = plan_jobs([Experiment("parts", ("abnormal",), (3,), ("ganomaly",), config, LIMITS)])[0]
    images = deal_out(sources["parts"](), job)
    sides = (images.train_nhwc, images.fit_nhwc, images.calibrate_nhwc, images.test_nhwc)
    together = np.concatenate(sides)
    assert len({image.tobytes() for image in together}) == len(together) == 80 + 38


def test_a_second_run_does_only_what_is_missing(
    experiments: tuple[Experiment, ...], sources: Sources, tmp_path: Path
) -> None:
    """Hours of finished work would be done again, or work in progress be lost without being repeated."""
    jobs = plan_jobs([replace(experiments[1], classes=("spot",))])
    events = run_jobs(jobs, sources, tmp_path, device="cpu", code_version="")
    for event in events:
        if isinstance(event, EpochDone) and event.job == jobs[1]:
            break  # as Ctrl-C does, in the middle of the second job
    events.close()
    assert unfinished(jobs, tmp_path) == [*jobs[1:]]
    before = (tmp_path / "runs" / f"{jobs[0].name}.json").stat().st_mtime_ns
    assert [event.job for event in run(unfinished(jobs, tmp_path), sources, tmp_path)] == [*jobs[1:]]
    assert unfinished(jobs, tmp_path) == []
    assert (tmp_path / "runs" / f"{jobs[0].name}.json").stat().st_mtime_ns == before
    assert not [path for path in (tmp_path / "runs").iterdir() if path.name.startswith(".")]


def test_changed_settings_are_other_jobs(experiments: tuple[Experiment, ...], sources: Sources, tmp_path: Path) -> None:
    """A row of other settings would be passed off as one of these, or enter their mean."""
    before = plan_jobs([replace(experiments[1], classes=("spot",))])
    run(before, sources, tmp_path)
    after = plan_jobs(Choice(epochs=2).apply([replace(experiments[1], classes=("spot",))]))
    left = unfinished(after, tmp_path)
    assert [job.method for job in left] == ["ganomaly", "egbad"]  # a baseline has no epochs
    run(left, sources, tmp_path)
    rows = RowStore(tmp_path).rows()
    assert {row.epochs for row in rows if row.method == "egbad"} == {1, 2}
    assert [row.epochs for row in choose_rows(rows, after) if row.method == "egbad"] == [2]
    assert [row.epochs for row in choose_rows(rows, before) if row.method == "egbad"] == [1]
    assert [row.epochs for row in choose_rows(rows, []) if row.method == "egbad"] == [2]  # the newest
    assert len([row for row in choose_rows(rows, after) if row.method == "pixel_gaussian"]) == 1


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
        replace(base, drawn_images=2),
        replace(base, study="latent_size", value=16.0),
        replace(base, study="latent_size", value=4.0),
        *(
            replace(base, config=with_setting(config, table, key, value))
            for table, key, value in (("recipe", "size_px", 48), ("training", "epochs", 3), ("network", "features", 16))
        ),
    ]
    names = [job.name for experiment in changed for job in plan_jobs([experiment])]
    names.append(plan_jobs([base], {"parts": "other files"})[0].name)
    assert len(set(names)) == len(names)
    assert plan_jobs([base, base, replace(base, note="said differently")])[0].name == names[0]
    assert len(plan_jobs([base, base])) == 1
    one, two = plan_jobs([replace(base, seeds=(0, 1))])
    assert one.settings_id == two.settings_id


def test_other_files_are_other_data(tmp_path: Path) -> None:
    """An image that was exchanged in a user's folder would leave the old result standing."""
    for name in ("good", "bad"):
        (tmp_path / name).mkdir()
        cv2.imwrite(str(tmp_path / name / "1.png"), np.full((40, 40), 90, np.uint8))
    before = fingerprint(from_folders(tmp_path / "good", tmp_path / "bad"))
    assert fingerprint(from_folders(tmp_path / "good", tmp_path / "bad")) == before
    cv2.imwrite(str(tmp_path / "bad" / "1.png"), np.zeros((80, 40), np.uint8))
    assert fingerprint(from_folders(tmp_path / "good", tmp_path / "bad")) != before


def test_a_job_that_fails_is_a_row_and_the_others_run(config: DetectorConfig, sources: Sources, tmp_path: Path) -> None:
    """One class that cannot be run would take a night of others with it, or be missing without a word."""
    jobs = plan_jobs([Experiment("kinds", ("nothing", "spot"), (0,), ("aae",), config, LIMITS)])
    bad, good = run(jobs, sources, tmp_path)
    assert bad.error is not None
    assert "abnormal = 'nothing': kinds has the labels dim, plain, spot" in bad.error
    assert bad.rows[0].auroc is None
    assert good.error is None
    assert unfinished(jobs, tmp_path) == [jobs[0]]  # it is tried again
    rows = choose_rows(RowStore(tmp_path).rows(), jobs)
    write_markdown(rows, tmp_path / "results.md", command="ganomaly benchmark", figures=[])
    assert "abnormal = 'nothing'" in (tmp_path / "results.md").read_text().split("## Failed")[1]


def test_diverged_training_is_a_row(config: DetectorConfig, sources: Sources, tmp_path: Path) -> None:
    """Training that blows up would end the benchmark."""
    wild = with_setting(with_setting(config, "training", "learning_rate", 1.0), "training", "weight_contextual", 1e39)
    jobs = plan_jobs([Experiment("parts", ("abnormal",), (0,), ("ganomaly", "pixel_gaussian"), wild, LIMITS)])
    bad, good = run(jobs, sources, tmp_path)
    assert bad.error is not None
    assert bad.error.startswith("TrainingDivergedError: training diverged in epoch 1")
    assert good.error is None


def test_events_tell_what_goes_on(config: DetectorConfig, sources: Sources, tmp_path: Path) -> None:
    """Nobody could see which job runs and how far it is."""
    jobs = plan_jobs([Experiment("parts", ("abnormal",), (0,), ("aae",), config, LIMITS)])
    events = list(run_jobs(jobs, sources, tmp_path, device="cpu", code_version=""))
    assert [type(event) for event in events] == [Started, EpochDone, Finished]
    assert jobs[0].title == "parts abnormal, aae, seed 0"


def test_a_damaged_file_is_named(config: DetectorConfig, tmp_path: Path) -> None:
    """A file that somebody edited would end in a traceback, or count as done."""
    (job,) = plan_jobs([Experiment("parts", ("abnormal",), (0,), ("aae",), config, LIMITS)])
    (tmp_path / "runs").mkdir()
    path = tmp_path / "runs" / f"{job.name}.json"
    path.write_text('{"rows": [{"auroc": 1}]}')
    with pytest.raises(ValueError, match=rf"{job.name}.json: holds no rows .* delete it to run it again"):
        unfinished([job], tmp_path)


def test_parquet_holds_every_field(finished: tuple[tuple[Job, ...], Path], tmp_path: Path) -> None:
    """What is known about a row would be lost for whoever reads the table with a program."""
    jobs, folder = finished
    rows = choose_rows(RowStore(folder).rows(), jobs)
    write_parquet(rows, tmp_path / "results.parquet")
    assert pq.read_table(tmp_path / "results.parquet").to_pylist() == [asdict(row) for row in rows]
    write_parquet([], tmp_path / "results.parquet")
    assert pq.read_table(tmp_path / "results.parquet").num_rows == 0


def test_drawn_defects_are_measured_on_good_test_images(
    finished: tuple[tuple[Job, ...], Path], sources: Sources, tmp_path: Path
) -> None:
    """Heat maps would be judged on images that trained, on other ones for each method, or not stand in the table."""
    jobs, folder = finished
    store = RowStore(folder)
    rows = choose_rows(store.rows(), jobs)
    defects = store.defect_rows(rows)
    assert {row.method for row in defects} == set(MAPPED)
    assert {(row.data, row.seed) for row in defects} == {("parts", 0), ("parts", 1)}
    job = next(job for job in jobs if job.method == "patch_gaussian" and job.seed == 1)
    images = deal_out(sources["parts"](), job)
    fitted = PatchGaussian.fit(np.concatenate([images.train_nhwc, images.fit_nhwc]))
    good = [image for image, bad in zip(images.test_sources, images.abnormal_m, strict=True) if not bad]
    expected = [asdict(row) for row in measure_localisation(WithoutNetwork(job.config, fitted), good[:2], seed=1)]
    mine = [asdict(row) for row in defects if row.job == job.name]
    assert [{name: row[name] for name in expected[0]} for row in mine] == expected
    write_parquet(defects, tmp_path / "drawn.parquet")
    assert pq.read_table(tmp_path / "drawn.parquet").to_pylist() == [asdict(row) for row in defects]
    write_markdown(rows, tmp_path / "results.md", command="", figures=[], defects=defects)
    text = (tmp_path / "results.md").read_text().split("### parts: drawn defects")[1]
    assert "| drawn | ganomaly | patch_gaussian | pixel_gaussian |" in text
    (cracks,) = [line for line in text.splitlines() if line.startswith("| kind: crack |")]
    found = [row.pixel_auroc for row in defects if row.method == "ganomaly" and row.kind == "crack"]
    assert cracks.split("|")[2].startswith(f" {np.mean(found):.3f} / ")


@pytest.mark.parametrize(("side_px", "kinds"), [(24, set()), (48, set(KINDS) - {"texture_patch"})])
@pytest.mark.parametrize("can_judge", [True, False])
def test_images_without_room_for_a_defect_cost_no_scores(
    side_px: int, kinds: set[str], can_judge: bool, config: DetectorConfig, tmp_path: Path
) -> None:
    """A user's own tiny or smooth parts would make every job fail after its training."""
    grey = (100 + np.arange(110, dtype=np.uint8) // 4)[:, None, None]  # one level each: no place for another texture
    images = np.tile(grey, (1, side_px, side_px))
    labels = np.array(["normal"] * 90 + ["abnormal"] * 20)
    data = DataSet("own", images, labels, np.arange(110).astype(np.str_))
    said = config.model_dump()
    said["quality"] |= {"min_side_px": 1, "min_contrast": 0.0 if can_judge else 0.5, "min_sharpness": 0.0}
    judging = DetectorConfig.model_validate(said)
    methods = ("ganomaly", "pixel_gaussian")
    jobs = plan_jobs([Experiment("own", ("abnormal",), (0,), methods, judging, drawn_images=2)])
    for event in run(jobs, {"own": lambda: data}, tmp_path):
        assert event.error is None, event.error
    store = RowStore(tmp_path)
    found = {(row.method, row.kind) for row in store.defect_rows(store.rows())}
    assert found == {(method, kind) for method in methods for kind in kinds if can_judge}


def test_markdown_has_the_tables(finished: tuple[tuple[Job, ...], Path], tmp_path: Path) -> None:
    """The page that people read would lack a data set, a method, a study or how it was made."""
    jobs, folder = finished
    rows = choose_rows(RowStore(folder).rows(), jobs)
    write_markdown(rows, tmp_path / "results.md", command="ganomaly benchmark -o x", figures=["figures/a.png"])
    text = (tmp_path / "results.md").read_text()
    assert "Made by `ganomaly benchmark -o x`: 24 jobs" in text
    assert "1.2.3+gabc.dirty" in text
    kinds, parts = text.split("## kinds")[1].split("## parts")
    assert "| method | dim | spot | mean | ms per image | training s |" in kinds
    assert "tiny networks" in parts
    mean = next(row for row in parts.splitlines() if row.startswith("| nearest_image |"))
    scores = [row.auroc for row in rows if row.method == "nearest_image" and row.auroc is not None]
    assert f"| {np.mean(scores):.3f} ± {np.std(scores, ddof=1):.3f} |" in mean
    assert "## AUROC against latent_size" in text
    assert "| data | class | score | 4 | 8 |" in text
    assert "![a](figures/a.png)" in text


def row(method: str, name: str, auroc: float, *, score: str | None = None, seed: int = 0, flagging: bool = True) -> Row:
    """A row of a data set that is made up."""
    nothing = dict.fromkeys(Row.__dataclass_fields__)
    said = {"study": "main", "method": method, "score": score or method, "flagging": flagging, "data": "made_up"}
    return Row(**{**nothing, **said, "abnormal_class": name, "seed": seed, "auroc": auroc})  # type: ignore[arg-type]


def test_the_page_says_where_a_network_is_not_better() -> None:
    """A reader would have to compare columns to find that the paper's order, or the network's use, does not hold."""
    rows = [
        row("ganomaly", "1", 0.6, score="paper", flagging=False),
        row("ganomaly", "2", 0.7, score="paper", flagging=False),
        row("ganomaly", "1", 0.9, score="fused"),
        row("ganomaly", "2", 0.9, score="fused"),
        row("egbad", "1", 0.7),
        row("egbad", "2", 0.5),
        row("anogan", "2", 0.8),
        row("nearest_image", "1", 0.95),
        row("nearest_image", "2", 0.1),
        row("pixel_gaussian", "1", 0.95),
        row("pixel_gaussian", "2", 0.9),
    ]
    (comparison,) = compare(rows)
    assert statements(comparison) == [
        "ganomaly (paper) is above egbad over 2 classes: 0.650 against 0.600; not on 1.",
        "ganomaly (fused) is above egbad over 2 classes: 0.900 against 0.600.",
        "egbad is **not** above anogan: 0.500 against 0.800.",
        "ganomaly (paper) does **not** beat pixel_gaussian (0.650 against 0.925, better on 0 of 2 classes); it beats "
        "nearest_image on average but not on 1 (0.650 against 0.525).",
        "ganomaly (fused) does **not** beat pixel_gaussian (0.900 against 0.925, better on 0 of 2 classes); it beats "
        "nearest_image on average but not on 1 (0.900 against 0.525).",
        "egbad does **not** beat pixel_gaussian (0.600 against 0.925, better on 0 of 2 classes); it beats "
        "nearest_image on average but not on 1 (0.600 against 0.525).",
        "anogan does **not** beat pixel_gaussian (0.800 against 0.900).",
    ]


def test_means_are_over_whole_seeds() -> None:
    """A mean over the easy classes of an unfinished seed would stand beside whole ones."""
    rows = [row("egbad", name, auroc, seed=seed) for seed, name, auroc in ((0, "1", 0.0), (0, "2", 0.5), (1, "2", 0.9))]
    (comparison,) = compare(rows)
    mean = comparison.mean("egbad")
    assert mean is not None
    assert (mean.value, mean.deviation, mean.seeds) == (0.25, None, 1)
    two = comparison.mean("egbad", "2")
    assert two is not None
    assert (two.value, two.seeds) == (0.7, 2)
    assert two.deviation == pytest.approx(0.2828, abs=1e-4)
    assert comparison.mean("anogan") is None


def test_figures_show_something(finished: tuple[tuple[Job, ...], Path], tmp_path: Path) -> None:
    """A figure of the paper would be missing or empty."""
    jobs, folder = finished
    store = RowStore(folder)
    (tmp_path / "stale.png").write_bytes(b"of an earlier run")
    written = draw_all(choose_rows(store.rows(), jobs), store, tmp_path)
    names = {path.stem for path in written}
    assert {f"overlays-parts-{kind}" for kind in KINDS} <= names
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
    chosen = Choice(methods=("ganomaly", "anogan"), classes=("2", "3"), train_images=99, test_images=7).apply(short)
    jobs = plan_jobs(chosen)
    found = {(job.data, job.abnormal_class, job.method) for job in jobs}
    assert found == {
        ("mnist", "2", "ganomaly"),
        ("mnist", "3", "ganomaly"),
        ("mnist", "2", "anogan"),
        ("elpv-mono", "abnormal", "ganomaly"),
        ("elpv-poly", "abnormal", "ganomaly"),
    }
    assert {job.limits for job in jobs} == {Limits(99, 7, 7)}
    assert {job.seed for job in plan_jobs(Choice(seeds=(5,)).apply(short))} == {5}
    only = plan_jobs(Choice(data=("elpv-poly",), epochs=2, size_px=48, features=8).apply(short))
    assert {(job.data, job.config.training.epochs, job.config.recipe.size_px) for job in only} == {("elpv-poly", 2, 48)}
    for wrong in (Choice(methods=("vae",)), Choice(data=("cifar10",)), Choice(classes=("bird",))):
        with pytest.raises(ValueError, match="not in this preset; it has"):
            wrong.apply(short)
    with pytest.raises(ValueError, match="nothing is left"):
        Choice(methods=("anogan",), data=("elpv-mono",)).apply(short)


def test_presets_hold_what_they_promise() -> None:
    """The short or the full form of the paper's experiment would lack digits, seeds or methods."""
    short = plan_jobs(PRESETS["short"])
    encoders = {"ganomaly", "egbad", "aae"}
    for method in encoders:
        mine = [job for job in short if job.method == method]
        assert {job.abnormal_class for job in mine if job.data == "mnist"} == set(DIGITS)
        assert {(job.data, job.seed) for job in mine if job.data != "mnist"} == {
            (line, seed) for line in ("elpv-mono", "elpv-poly") for seed in range(3)
        }
    assert len({job.abnormal_class for job in short if job.method == "anogan"}) == 2
    full = plan_jobs(PRESETS["full"])
    assert {(j.abnormal_class, j.seed) for j in full if j.method == "ganomaly" and j.data == "mnist"} == {
        (digit, seed) for digit in DIGITS for seed in range(3)
    }
    assert {job.abnormal_class for job in full if job.data == "cifar10"} == set(CIFAR_CLASSES)
    assert all(job.limits == Limits() for job in full if job.data == "mnist" and job.method in encoders)
    studied = {job.study for name in ("latent", "weights") for job in plan_jobs(PRESETS[name])}
    assert studied == {"latent_size", "weight_adversarial", "weight_contextual", "weight_encoder"}


def test_saved_files_are_plain(finished: tuple[tuple[Job, ...], Path]) -> None:
    """A row could be read by this program only, or reading one run code."""
    _, folder = finished
    for path in (folder / "runs").glob("*.json"):
        document = json.loads(path.read_text())
        assert {"rows", "drawn_defects", "config", "limits"} == set(document)
