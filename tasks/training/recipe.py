"""What a model's recipe leaves to the bucket: the mask of ignored areas, and what the line's images decide."""

import numpy as np
from prefect import task
from prefect.logging import get_run_logger

from ganomaly import DetectorConfig, TrainingDataError
from ganomaly.images.areas import as_mask
from ganomaly.images.preparation import LOOKED_AT
from tasks.bucket.failures import ObjectChangedError, ObjectMissingError
from tasks.steps import NETWORK_STEP
from tasks.systems import Systems
from tasks.training.choose import NormalImages


@task(name="decide-recipe", **NETWORK_STEP, persist_result=False)
def decide_recipe(systems: Systems, config: DetectorConfig, chosen: NormalImages) -> DetectorConfig:
    """The configuration with the line's mask, and with what its recipe leaves to the line's images decided.

    Raises:
        TrainingDataError: if the line names a mask that is not there or is no image.
    """
    config = _with_mask(systems, config)
    images = chosen.images
    some = [images[at] for at in np.linspace(0, len(images) - 1, min(len(images), LOOKED_AT)).astype(int)]
    found = []
    for image in some:
        try:
            found.append(systems.objects.get_listed(image.key, image.etag))
        except (ObjectMissingError, ObjectChangedError):  # the snapshot will say so
            continue
    usual, config = config.quality, config.fitted_to(found)
    get_run_logger().info("recipe: %s", config.recipe.summary)
    for moved in config.quality.moved_from(usual):
        get_run_logger().warning("%s; state it in the line's file, so that `inspection ingest` heeds it, too", moved)
    return config


def _with_mask(systems: Systems, config: DetectorConfig) -> DetectorConfig:
    """The configuration with the line's mask image in its recipe: the model needs no other file."""
    if (key := systems.line.images.mask) is None:
        return config
    where = systems.objects.uri(key)
    try:
        mask = as_mask(systems.objects.get(key))
    except ObjectMissingError:
        raise TrainingDataError(
            f"{where}: is not there, but images.mask of {systems.line.name} names it; put an image there that is black "
            "where nothing is looked at, or remove the setting"
        ) from None
    except ValueError as error:
        raise TrainingDataError(f"{where}: {error}") from None
    return config.model_copy(update={"recipe": config.recipe.model_copy(update={"mask": mask})})
