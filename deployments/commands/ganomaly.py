"""The command ``ganomaly`` as it is installed: the library's commands, and `benchmark`, which may log to MLflow.

Heavy modules are imported inside the functions that need them, so that ``--help`` answers at once.
"""

import json
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal
from uuid import uuid4

import typer

from ganomaly.cli import Device, UsageProblemError, app, plain_errors

if TYPE_CHECKING:
    from ganomaly.evaluation.plan import Choice, Experiment, Job
    from ganomaly.evaluation.protocols import DataSet
    from ganomaly.evaluation.rows import Row
    from tasks.registry.registry import BenchmarkLog

IDENTITY_FILE = "benchmark.json"
BUILT_IN = ("mnist", "cifar10", "elpv-mono", "elpv-poly")
SOLAR_CELLS = ("elpv-mono", "elpv-poly")
INTERRUPTED = 130


@app.command()
def benchmark(
    typer_context: typer.Context,
    inspection: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[FOLDER]...",
            help="Folders in the layout of MVTec AD (train/good, test/good, test/KIND, ground_truth), or elpv-mono and "
            "elpv-poly: measure a detector with its defaults on them, instead of the paper's comparison.",
        ),
    ] = None,
    preset: Annotated[
        Literal["short", "full", "smoke", "latent", "weights"],
        typer.Option(
            help="short: MNIST and both ELPV lines in at most 90 minutes on 2 CPU cores. full: the paper's protocol "
            "with three seeds and CIFAR-10, for a GPU. latent, weights: AUROC against latent size and loss weights. "
            "smoke: seconds, tests the installation."
        ),
    ] = "short",
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="DIR", help="Rows, tables and figures; run again to go on.")
    ] = Path("benchmark"),
    methods: Annotated[
        list[str] | None,
        typer.Option(
            metavar="A,B,...",
            help="Only these of ganomaly, egbad, anogan, aae, nearest_image, patch_gaussian, pixel_gaussian.",
        ),
    ] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(
            metavar="A,B,...", help="Only these data sets: mnist, cifar10, elpv-mono, elpv-poly, or your own."
        ),
    ] = None,
    classes: Annotated[
        list[str] | None,
        typer.Option(
            metavar="A,B,...", help="Only these classes are unseen in turn; data that is good or bad has none."
        ),
    ] = None,
    seeds: Annotated[list[str] | None, typer.Option(metavar="0,1,...", help="These seeds.")] = None,
    folders: Annotated[
        tuple[Path, Path] | None,
        typer.Option(metavar="GOOD BAD", help="Add your own data: a folder of good and one of bad images."),
    ] = None,
    table: Annotated[
        Path | None,
        typer.Option(
            metavar="CSV", help="Add your own data: columns path, label (normal or abnormal) and, if known, part."
        ),
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Instead of the preset's.")] = None,
    size: Annotated[int | None, typer.Option(min=32, help="Side of the networks' input, px.")] = None,
    features: Annotated[int | None, typer.Option(min=4, help="Width of the networks.")] = None,
    train_images: Annotated[
        int | None, typer.Option(min=10, help="At most so many normal images train, fit and calibrate.")
    ] = None,
    test_images: Annotated[
        int | None, typer.Option(min=1, help="At most so many normal and so many abnormal images test.")
    ] = None,
    data_root: Annotated[
        Path, typer.Option(envvar="GANOMALY_DATA", metavar="DIR", help="Holds MNIST/raw and cifar-10-batches-py.")
    ] = Path("data"),
    download: Annotated[bool, typer.Option("--download", help="Fetch MNIST and CIFAR-10 if they are missing.")] = False,
    device: Device = "auto",
    tracking_uri: Annotated[
        str | None,
        typer.Option(metavar="URI", help="Log a parent run with a nested run for each row to this MLflow."),
    ] = None,
    config: Annotated[
        Path | None, typer.Option(metavar="FILE", help="With FOLDER: the detector's settings, as for `ganomaly fit`.")
    ] = None,
    images: Annotated[
        int | None, typer.Option(min=2, help="With FOLDER: learn from so many images only, drawn by the seed.")
    ] = None,
    part_pattern: Annotated[
        str | None, typer.Option(metavar="REGEX", help="With FOLDER: where the part id stands in a file name.")
    ] = None,
) -> None:
    """Compare methods on data sets, classes and seeds; write a table and figures.

    With FOLDER a detector learns from its good images and judges its test images: AUROC, AUPRO and AUPIMO, flagged good
    images against the promise, missed defects, seconds and images per second, beside the detector's own scores and what
    needs no network.

    Each finished training is kept: the same command goes on where it was stopped. A job that fails is named at the end,
    the others run; the exit code is then 1.
    """
    with plain_errors(), _operating_errors():
        from ganomaly.evaluation.plan import Choice

        if inspection:
            _refuse_options_of_the_comparison(typer_context)
            chosen = FolderChoice(tuple(inspection), _numbers(seeds) or (0,), config, images, part_pattern, device)
            _run_folders(chosen, output)
            return
        choice = Choice(
            methods=_listed(methods),
            data=_listed(data),
            classes=_listed(classes),
            seeds=_numbers(seeds),
            epochs=epochs,
            size_px=size,
            features=features,
            train_images=train_images,
            test_images=test_images,
        )
        sources = _sources(data_root, download=download) | _own_sources(folders, table)
        jobs = _plan(preset, choice, sources)
        _run(Work(output, jobs, sources, device, tracking_uri, preset))


def _refuse_options_of_the_comparison(context: typer.Context) -> None:
    """Options that a measurement of folders would ignore.

    Raises:
        UsageProblemError: if one is given; names it.
    """
    taken = {"inspection", "output", "seeds", "device", "config", "images", "part_pattern"}
    given = [
        name.replace("_", "-")
        for name in context.params
        if name not in taken and getattr(context.get_parameter_source(name), "name", "") == "COMMANDLINE"
    ]
    if given:
        raise UsageProblemError(f"--{', --'.join(given)}: is for the paper's comparison; leave it out with folders")


@dataclass(frozen=True)
class FolderChoice:
    """Sets that a detector is measured on, and how."""

    names: tuple[str, ...]
    seeds: tuple[int, ...]
    config: Path | None
    images: int | None
    part_pattern: str | None
    device: str


def _run_folders(choice: FolderChoice, output: Path) -> None:
    """Measure set by set and write what there is after each, so that nothing is lost when it is stopped."""
    from ganomaly import DetectorConfig, load_config
    from ganomaly.evaluation.folders import DETECTOR, few, markdown, read_folder, run_set, solar_cells, write_csv
    from ganomaly.evaluation.machine import describe_machine

    config = DetectorConfig() if choice.config is None else load_config(choice.config)
    found = describe_machine(choice.device)
    machine = f"{found.cores} cores of {found.cpu or found.device}, {found.device}, PyTorch {found.torch}"
    folders = {name: None if name in SOLAR_CELLS else read_folder(Path(name).resolve()) for name in choice.names}
    if len({folder.name for folder in folders.values() if folder}) < sum(
        folder is not None for folder in folders.values()
    ):
        raise UsageProblemError("two folders have the same name, and a table could not tell them apart: rename one")
    output.mkdir(parents=True, exist_ok=True)
    rows, failed = [], []
    for name, folder in folders.items():
        for seed in choice.seeds:
            data = solar_cells(name, seed) if folder is None else folder
            data = data if choice.images is None else few(data, choice.images, seed)
            typer.echo(f"{data.name}, seed {seed}: learns from {len(data.train)} images, judges {len(data.test)} ...")
            try:
                for row in run_set(data, config, seed, part_pattern=choice.part_pattern, device=choice.device):
                    rows.append(row)
                    if row.method == DETECTOR:
                        typer.echo(
                            f"  AUROC {row.auroc:.3f}, good flagged {row.false_rejects:.1%}, defects missed "
                            f"{row.escapes:.0%}, fit {row.fit_s:.0f} s, {row.images_per_s:.0f} images/s"
                        )
            except ValueError as error:  # such as images that cannot train a detector as asked
                failed.append(f"{data.name}, seed {seed}: {error}")
                typer.secho(f"  {error}", fg="red", err=True)
            if rows:
                write_csv(rows, output / "folders.csv")
                (output / "folders.md").write_text(markdown(rows, _command(), machine), encoding="utf-8")
    if rows:
        typer.echo(markdown(rows, _command(), machine))
        typer.echo(f"also in {output / 'folders.md'} and {output / 'folders.csv'}")
    if failed:
        raise typer.Exit(1)


@contextmanager
def _operating_errors() -> Iterator[None]:
    """What MLflow does wrong as an error that is said in one line."""
    from tasks.errors import OperatingError

    try:
        yield
    except OperatingError as error:
        raise UsageProblemError(str(error)) from None


@dataclass(frozen=True)
class Work:
    """What the command was asked to do."""

    output: Path
    jobs: "tuple[Job, ...]"
    sources: "dict[str, Callable[[], DataSet]]"
    device: str
    tracking_uri: str | None
    preset: str


def _run(work: Work) -> None:
    from ganomaly.evaluation.run import unfinished

    left = unfinished(work.jobs, work.output)
    if len(left) < len(work.jobs):
        typer.echo(f"{len(work.jobs) - len(left)} of {len(work.jobs)} jobs are done already")
    work.output.mkdir(parents=True, exist_ok=True)
    log = _open_log(work)
    try:
        _run_jobs(work, left, log)
    except KeyboardInterrupt:
        done = len(work.jobs) - len(unfinished(work.jobs, work.output))
        typer.echo(f"\nstopped: {done} of {len(work.jobs)} jobs are done; the same command goes on from here", err=True)
        raise typer.Exit(INTERRUPTED) from None
    _finish(work, log)


def _run_jobs(work: Work, left: "Sequence[Job]", log: "BenchmarkLog | None") -> None:
    from deployments.commands.benchmark_screen import screen
    from ganomaly.evaluation.run import Finished, run_jobs
    from tasks.errors import OperatingError
    from tasks.settings import code_version

    with screen(left) as shown:
        for event in run_jobs(left, work.sources, work.output, device=work.device, code_version=code_version()):
            shown.show(event)
            if log is not None and isinstance(event, Finished):
                try:
                    log.log_rows(event.rows)
                except OperatingError as error:  # hours of work do not hang on it: the end logs what is missing
                    shown.warn(str(error))


def _finish(work: Work, log: "BenchmarkLog | None") -> None:
    """Write tables and figures of all rows in the folder, and say what failed."""
    from ganomaly.evaluation.figures import draw_all
    from ganomaly.evaluation.results import write_markdown, write_parquet
    from ganomaly.evaluation.rows import RowStore, choose_rows

    store = RowStore(work.output)
    rows = choose_rows(store.rows(), work.jobs)
    defects = store.defect_rows(rows)
    figures = draw_all(rows, store, work.output / "figures")
    tables = [work.output / "results.parquet", work.output / "results.md"]
    write_parquet(rows, tables[0])
    if defects:
        tables.append(work.output / "drawn-defects.parquet")
        write_parquet(defects, tables[-1])
    names = [path.relative_to(work.output).as_posix() for path in figures]
    write_markdown(rows, tables[1], command=_command(), figures=names, defects=defects)
    typer.echo(f"{len(rows)} rows and {len(figures)} figures in {tables[1]}")
    failed = _failed(work.jobs, rows)
    if log is not None:
        log.log_rows(rows)  # also those of earlier calls without MLflow
        log.close([*((path, "") for path in tables), *((path, "figures") for path in figures)], failed=bool(failed))
    if failed:
        typer.secho(
            f"{len(failed)} of {len(work.jobs)} jobs failed; the same command tries them again:", fg="red", err=True
        )
        for name, error in failed.items():
            typer.secho(f"  {name}: {error}", fg="red", err=True)
        raise typer.Exit(1)


def _failed(jobs: "Sequence[Job]", rows: "Sequence[Row]") -> dict[str, str]:
    names = {job.name for job in jobs}
    return {row.job: row.error for row in rows if row.error is not None and row.job in names}


def _command() -> str:
    """This command as it was typed."""
    return shlex.join(["ganomaly", *sys.argv[1:]])


def _open_log(work: Work) -> "BenchmarkLog | None":
    if work.tracking_uri is None:
        return None
    from tasks.registry.registry import ModelRegistry

    identity = work.output / IDENTITY_FILE
    if not identity.exists():
        identity.write_text(json.dumps({"benchmark_id": uuid4().hex}) + "\n", encoding="utf-8")
    benchmark_id = json.loads(identity.read_text(encoding="utf-8"))["benchmark_id"]
    registry = ModelRegistry(work.tracking_uri, _artifact_root(work.tracking_uri))
    return registry.benchmark_log(benchmark_id, f"{work.preset} {work.output.name}")


def _artifact_root(tracking_uri: str) -> str | None:
    """Beside a local database, where MLflow itself would take the current folder; a server has a place of its own."""
    prefix = "sqlite:///"
    if not tracking_uri.startswith(prefix):
        return None
    return (Path(tracking_uri.removeprefix(prefix)).resolve().parent / "mlartifacts").as_uri()


def _plan(preset: str, choice: "Choice", sources: "dict[str, Callable[[], DataSet]]") -> "tuple[Job, ...]":
    from ganomaly.evaluation.paper.presets import PRESETS, own_data
    from ganomaly.evaluation.plan import fingerprint, plan_jobs

    own = [name for name in sources if name not in BUILT_IN]
    experiments: list[Experiment] = [*PRESETS[preset], *(own_data(name) for name in own)]
    chosen = choice.apply(experiments)
    wanted = {experiment.data for experiment in chosen}
    for name in sorted(wanted):
        sources[name]()  # before hours of work: is it there?
    return plan_jobs(chosen, {name: fingerprint(sources[name]()) for name in own if name in wanted})


def _sources(root: Path, *, download: bool) -> "dict[str, Callable[[], DataSet]]":
    from ganomaly.evaluation import protocols

    return {
        "mnist": partial(protocols.mnist, root, download=download),
        "cifar10": partial(protocols.cifar10, root, download=download),
        "elpv-mono": partial(protocols.elpv, "mono"),
        "elpv-poly": partial(protocols.elpv, "poly"),
    }


def _own_sources(folders: tuple[Path, Path] | None, table: Path | None) -> "dict[str, Callable[[], DataSet]]":
    from ganomaly.evaluation import protocols

    own: dict[str, Callable[[], DataSet]] = {}
    if folders is not None:
        own[folders[0].resolve().parent.name] = partial(protocols.from_folders, *(f.resolve() for f in folders))
    if table is not None:
        own[table.stem] = partial(protocols.from_table, table)
    if taken := set(own) & set(BUILT_IN):
        raise UsageProblemError(
            f"your data would be named {', '.join(taken)}, as a data set that is built in: rename it"
        )
    return own


def _listed(texts: list[str] | None) -> tuple[str, ...] | None:
    """The words of "a,b" or of the option given twice; None where it was not given."""
    if not texts:
        return None
    return tuple(word.strip() for text in texts for word in text.split(",") if word.strip())


def _numbers(texts: list[str] | None) -> tuple[int, ...] | None:
    words = _listed(texts)
    if words is None:
        return None
    if not words or not all(word.isdecimal() for word in words):
        raise UsageProblemError(
            f"--seeds {','.join(texts or [])}: must be whole numbers from 0 up, separated by commas"
        )
    return tuple(map(int, words))


if __name__ == "__main__":
    app()
