"""Flow ``train-ganomaly``: from recorded normal images of a line to a calibrated, registered model version."""

from datetime import date

from prefect import flow
from prefect.logging import get_run_logger

from tasks.lines.window import Window
from tasks.steps import quote, show_markdown
from tasks.systems import open_systems
from tasks.training.choose import choose_normal_images
from tasks.training.recipe import decide_recipe
from tasks.training.train import (
    TrainedModel,
    assign_alias,
    compare_snapshots,
    take_snapshot,
    train_detector,
    with_overrides,
)


@flow(name="train-ganomaly", flow_run_name="train {line}")
def train_ganomaly(
    line: str,
    window_start: date | None = None,
    window_end: date | None = None,
    epochs: int | None = None,
    seed: int | None = None,
    device: str = "auto",
) -> TrainedModel:
    """Train GANomaly on the line's normal images, calibrate it on held-out ones and register it in MLflow.

    It learns from what counts as normal, see `tasks.training.choose`. The version becomes `@champion` if the line has
    none, otherwise `@challenger`: flow `promote-model` decides about it.

    Args:
        line: the line, as in `deployments/lines/<line>.toml`.
        window_start: first production date to learn from; default as `models.training_days`
            says, or all that is recorded.
        window_end: last production date to learn from, included; default all that is recorded.
        epochs: instead of the line's `training.epochs`.
        seed: instead of the line's `training.seed`.
        device: `auto`, `cpu` or `cuda`.
    """
    logger = get_run_logger()
    systems = open_systems(line)
    config = with_overrides(systems.line.detector, epochs=epochs, seed=seed)
    window = Window(window_start or date.min, window_end or date.max) if window_start or window_end else None
    chosen = choose_normal_images(systems, window)
    config = decide_recipe(systems, config, quote(chosen))
    snapshot = take_snapshot(systems, config, quote(chosen))
    changes = compare_snapshots(systems, quote(snapshot))
    model = train_detector(systems, config, quote(snapshot), changes, device)
    alias = assign_alias(systems, model.version, who="flow train-ganomaly")
    logger.info("%s is @%s. %s", model.version.uri, alias, model.promise)
    show_markdown(model.as_markdown(alias), key=f"model-{line}", description=model.version.uri)
    return model
