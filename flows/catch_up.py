"""Flow ``catch-up``: judge what no run has looked at, whatever its date."""

from prefect import flow
from prefect.logging import get_run_logger

from flows.score_batch import NightResult, score_batch
from ganomaly.errors import DetectorFileError
from tasks.night.pinned import NoChampionError
from tasks.night.run import FailedImagesError, NothingJudgedError, SuspectNightError
from tasks.night.survey import survey
from tasks.registry.reaching import ModelRegistryError, RegistryUnreachableError
from tasks.steps import name_run
from tasks.systems import open_systems

MODEL_ERRORS = (DetectorFileError, ModelRegistryError)
"""The model that judged a day is gone, or of an older format: other days may still be judged."""


@flow(name="catch-up", flow_run_name=name_run)
def catch_up(line: str, device: str = "auto") -> list[NightResult]:
    """Look through the line's whole prefix and score each production date of which some objects were never looked at.

    Each date is a window of its own, with a report of its own, and is judged by the model that judged the rest of it,
    if one did; today's is still going on and is left to its night.
    Objects whose key does not follow the line's layout have no date: they are named in the log.

    Args:
        line: the line, as in `deployments/lines/<line>.toml`.
        device: `auto`, `cpu` or `cuda`.
    """
    logger = get_run_logger()
    systems = open_systems(line)
    days = survey(systems, besides=()).days
    nights: list[NightResult] = []
    errors: list[Exception] = []
    for number, day in enumerate(days, start=1):
        logger.info("%s: day %d of %d, %s", line, number, len(days), day)
        try:
            newest = systems.store.runs.of_line(line, 1, day)
            model_version = newest[0].model_version if newest else None
            nights.append(score_batch(line, day, day, model_version, device))
        except (NoChampionError, RegistryUnreachableError):  # other days would fail alike
            raise
        except (*MODEL_ERRORS, FailedImagesError, NothingJudgedError, SuspectNightError) as error:
            logger.error("%s", error)
            errors.append(error)
    if errors:
        others = f"; {len(nights)} other days were judged, see `inspection runs {line}`" if nights else ""
        raise type(errors[0])(f"{errors[0]}{others}")
    return nights
