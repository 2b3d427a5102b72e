"""Flow ``ingest-images``: record what a window's images are and whether they are fit to judge."""

from datetime import date

from prefect import flow, runtime
from prefect.logging import get_run_logger

from tasks.lines.window import window_of
from tasks.night.accounting import IngestCounts
from tasks.night.ingest import decide_bits, drop_recorded
from tasks.night.listing import list_window
from tasks.night.run import alone_on
from tasks.steps import name_run, quote
from tasks.systems import open_systems
from tasks.workers.shards import ingest_shards


@flow(name="ingest-images", flow_run_name=name_run)
def ingest_images(line: str, window_start: date | None = None, window_end: date | None = None) -> IngestCounts:
    """List a window's objects, fetch those not yet recorded, check that they can be judged, and record them.

    Bad images never stop the flow: they are recorded with the reason. Running it again fetches only what is new, and a
    second run at once waits for the first.

    Args:
        line: the line, as in `deployments/lines/<line>.toml`.
        window_start: first production date; default the day before the one for which the run is scheduled.
        window_end: last production date, included; default the first.
    """
    logger = get_run_logger()
    systems = open_systems(line)
    window = window_of(systems.line.timezone, window_start, window_end, runtime.flow_run.scheduled_start_time)
    with alone_on(systems, "ingest", window):
        listing = list_window(systems, window)
        todo = drop_recorded(systems, window, quote(listing))
        known = len(listing.images) - len(todo)
        counts = IngestCounts(listing.total, already_recorded=known, unusable=len(listing.strays))
        recipe = decide_bits(systems, quote(todo))
        counts += ingest_shards(systems, recipe, todo)
    for stray in listing.strays:
        logger.warning("%r %s: %s", stray.key, stray.reason, stray.detail)
    if listing.ignored:
        logger.info("%d other files are ignored, see images.ignore", listing.ignored)
    counts.reconcile()
    logger.info("%s, %s: %s", line, window, counts)
    return counts
