"""Flow ``nightly``: what the schedule runs for a line, every night."""

from datetime import date

from prefect import flow

from flows.ingest_images import ingest_images
from flows.score_batch import NightResult, score_batch
from tasks.naming import name_run


@flow(name="nightly", flow_run_name=name_run)
def nightly(line: str, production_date: date | None = None, device: str = "auto") -> NightResult:
    """Ingest and score one production date of a line and publish its report.

    Args:
        line: the line, as in `deployments/lines/<line>.toml`.
        production_date: the day to judge; default yesterday where the line stands.
        device: `auto`, `cpu` or `cuda`.
    """
    ingest_images(line, production_date, production_date)
    return score_batch(line, production_date, production_date, device=device)
