"""The demo: the plant's main job from camera images to a report, through the flows that production uses.

Everything it writes lies under one folder. Running it again reuses the environment and the trained models and scores
only what is new. Prefect and MLflow read the environment when they are imported, so this module imports what needs them
inside the functions that run after the environment is set.
"""

import json
import logging
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from deployments.demo.plant import FIRST_DAY, LAST_DAY, LINES, play_week, put_golden_set, week_of
from deployments.demo.screen import LineSummary, Steps, print_summary
from infra.local_s3 import LocalS3

if TYPE_CHECKING:
    from flows.score_batch import NightResult
    from tasks.systems import Systems

BUCKET = "plant"
RETRAINED = "elpv-mono"
RETRAINING_SEED = 1


def run_demo(folder: Path) -> dict[str, LineSummary]:
    """Run the demo in a folder, print what happens and what came out, and write ``summary.json``."""
    log = folder / "logs" / "demo.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        console = stack.enter_context(_output_to(log))
        console.print(
            "[bold]A week in a solar-cell plant[/]: 2,624 electroluminescence images of real cells from two lines.\n"
            f"Everything is written under {folder}, the log is {log}.\n",
            highlight=False,
            soft_wrap=True,
        )
        server = stack.enter_context(LocalS3(folder / "bucket", log_file=folder / "logs" / "s3.log"))
        stack.enter_context(_environment(folder, server))
        summaries = {line: _run_line(line, folder, console) for line in LINES}
        summaries[RETRAINED] = _retrain(RETRAINED, summaries[RETRAINED], console)
        text = json.dumps({line: asdict(summary) for line, summary in summaries.items()}, indent=2)
        (folder / "summary.json").write_text(text + "\n", encoding="utf-8")
        print_summary(console, summaries, folder)
        logging.getLogger("prefect").setLevel(logging.WARNING)  # its goodbye would follow the closing screen
    return summaries


@contextmanager
def _environment(folder: Path, server: LocalS3) -> Iterator[None]:
    """The environment that points everything to the demo's folder and server; put back afterwards."""
    ours = {
        **server.environment(),
        "INSPECTION_WORK_DIR": str(folder),
        "INSPECTION_BUCKET": BUCKET,
        "PREFECT_HOME": str(folder.resolve() / "prefect"),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
        "PREFECT_LOGGING_COLORS": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    before = dict(os.environ)
    for name in before:  # a user's own servers and profiles are not the demo's
        if name.startswith(("INSPECTION_", "PREFECT_", "MLFLOW_", "AWS_")):
            del os.environ[name]
    os.environ.update(ours)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextmanager
def _output_to(log: Path) -> Iterator[Console]:
    """Send all output of this process and its children to a file; yields a console on the real standard output."""
    saved = [os.dup(descriptor) for descriptor in (1, 2)]
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as screen, log.open("a", encoding="utf-8") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        try:
            yield Console(file=screen)
        finally:
            for descriptor, original in zip((1, 2), saved, strict=True):
                os.dup2(original, descriptor)
                os.close(original)


def _run_line(line: str, folder: Path, console: Console) -> LineSummary:
    from flows.ingest_images import ingest_images
    from flows.nightly import nightly
    from tasks.systems import open_systems

    steps = Steps(console, line)
    with steps.step("play", "play the week into the bucket") as step:
        systems = open_systems(line)
        systems.objects.create_bucket_if_missing()
        written = play_week(systems.objects, line, lambda done, total: step.say(f"{done} of {total} images"))
        step.outcome = f"{written} objects written" if written else "nothing new"
    with steps.step("ingest", "ingest the week") as step:
        ingested = ingest_images(line, FIRST_DAY, LAST_DAY)
        known = f", {ingested.already_recorded} known before" if ingested.already_recorded else ""
        step.outcome = f"{ingested.recorded} fit to judge, {ingested.unusable} unusable{known}"
    with steps.step("train", "train GANomaly on normal cells, calibrate, register") as step:
        step.outcome = _train_unless_trained(systems)
    with steps.step("score", f"score the night of {LAST_DAY}") as step:
        night = nightly(line, LAST_DAY, device="cpu")
        step.outcome = f"{night.counts.scored} scored, {night.counts.already_scored} scored before"
    with steps.step("evaluate", "compare with the experts' labels") as step:
        summary = _summarise(systems, night, folder / "bucket" / BUCKET, steps.seconds)
        step.outcome = f"AUROC {summary.auroc:.3f}"
    return summary


def _retrain(line: str, summary: LineSummary, console: Console) -> LineSummary:
    """Train a second version of the line's model and let the gate decide about it."""
    from flows.promote_model import promote_model
    from flows.train_ganomaly import train_ganomaly
    from tasks.systems import open_systems

    steps, systems = Steps(console, line), open_systems(line)
    before = [row for row in systems.store.decisions.promotions(line) if row.gate]
    with steps.step("retrain", "train a second version, with another seed") as step:
        if not before:
            golden = put_golden_set(systems.objects, line)
            trained = train_ganomaly(line, seed=RETRAINING_SEED, device="cpu")
            step.outcome = f"{trained.version.uri}; the last day's {golden} labelled cells are the golden set"
        else:
            step.outcome = f"version {before[-1].version} reused"
    with steps.step("promote", "let the gate decide between the two") as step:
        decision = before[-1] if before else promote_model(line, device="cpu").decision
        step.outcome = f"version {decision.version} {decision.outcome}"
    said = f"version {decision.version} against version {decision.previous_version}: {decision.outcome}: {decision.why}"
    return replace(summary, promotion=said, seconds=summary.seconds | steps.seconds)


def _train_unless_trained(systems: "Systems") -> str:
    from flows.train_ganomaly import train_ganomaly

    champion = systems.registry.champion(systems.line.name)
    if champion is not None:
        return f"{champion.uri} reused"
    trained = train_ganomaly(systems.line.name, device="cpu")
    return f"{trained.version.uri} from {sum(trained.images.values())} images"


def _summarise(systems: "Systems", night: "NightResult", bucket: Path, seconds: dict[str, float]) -> LineSummary:
    """What the night found, against labels that neither training nor calibration saw."""
    from ganomaly.scoring.calibration import plausible_false_rejects
    from tasks.night.pinned import pin_model
    from tasks.training.evaluate import evaluate

    line = systems.line.name
    detector = pin_model.fn(systems, night.model_version, "cpu").detector
    calibration = detector.calibrated
    scores = systems.store.scores.of_window(line, LAST_DAY, LAST_DAY, night.model_version, calibration.id)
    truth = {cell.key: cell.defect_probability == 1 for cell in week_of(line) if cell.defect_probability in (0, 1)}
    found = evaluate(scores, truth)
    return LineSummary(
        listed=night.counts.listed,
        scored=night.counts.scored,
        already_scored=night.counts.already_scored,
        unusable=night.counts.unusable,
        failed=night.counts.failed,
        flagged=int((scores["verdict"] == "flagged").sum()),
        auroc=round(found.auroc, 4),
        promised_false_reject_rate=calibration.false_reject_rate,
        observed_false_reject_rate=round(found.false_reject_rate, 4),
        escape_rate=round(found.escape_rate, 4),
        report=str(bucket / night.report_key),
        model_version=night.model_version,
        reject_limit=calibration.limit,
        calibration_images=calibration.n_images,
        good_cells=found.normal,
        false_rejects=found.false_rejects,
        plausible_false_rejects=plausible_false_rejects(found.normal, calibration.n_images, calibration.n_above),
        defective_cells=found.defective,
        escapes=found.escapes,
        seconds=seconds,
    )
