"""Flow ``nightly``: what the schedule runs for a line, every night."""

from datetime import date

from prefect import flow, runtime
from prefect.logging import get_run_logger

from flows.ingest_images import ingest_images
from flows.score_batch import NightResult, score_batch
from ganomaly.errors import DetectorFileError
from tasks.lines.window import last_production_date
from tasks.night.lookback import days_to_revisit
from tasks.night.pinned import NoChampionError
from tasks.night.run import FailedImagesError, NothingJudgedError, SuspectNightError
from tasks.registry.reaching import ModelRegistryError, RegistryUnreachableError
from tasks.steps import name_run
from tasks.systems import open_systems


@flow(name="nightly", flow_run_name=name_run)
def nightly(line: str, production_date: date | None = None, device: str = "auto") -> NightResult:
    """Record and score one production date of a line, publish its report, and pick up late images of earlier days.

    Every image is fetched once: scoring records what ingest would. A line without a model is only ingested, so that a
    first model can be trained on what it produced, and the flow fails saying so.

    Args:
        line: the line, as in `deployments/lines/<line>.toml`.
        production_date: the day to judge; default the day before the one for which the run is scheduled.
        device: `auto`, `cpu` or `cuda`.
    """
    logger = get_run_logger()
    systems = open_systems(line)
    day = production_date or last_production_date(systems.line.timezone, runtime.flow_run.scheduled_start_time)
    errors: list[Exception] = []
    try:
        night = score_batch(line, day, day, device=device)
    except NoChampionError:
        ingest_images(line, day, day)
        raise
    except (FailedImagesError, NothingJudgedError, SuspectNightError) as error:
        errors.append(error)
    for earlier, model_version in days_to_revisit(systems, day):
        try:
            score_batch(line, earlier, earlier, model_version, device)
        except (NothingJudgedError, SuspectNightError):  # its own night said so
            continue
        except (DetectorFileError, FailedImagesError, ModelRegistryError) as error:
            logger.error("%s: %s", earlier, error)
            errors.append(error)
            if isinstance(error, RegistryUnreachableError):
                break
    if errors:
        raise errors[0]
    return night
