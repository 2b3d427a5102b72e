"""Flow ``ingest-images``: record what a window's images are and whether they are fit to judge."""

from datetime import date

from prefect import flow
from prefect.logging import get_run_logger

from tasks.accounting import IngestCounts
from tasks.fetching import in_chunks
from tasks.ingest import drop_recorded, ingest_shard
from tasks.listing import list_window
from tasks.naming import name_run
from tasks.systems import open_systems
from tasks.window import window_of


@flow(name="ingest-images", flow_run_name=name_run)
def ingest_images(line: str, window_start: date | None = None, window_end: date | None = None) -> IngestCounts:
    """List a window's objects, fetch those not yet recorded, check that they can be judged, and record them.

    Bad images never stop the flow: they are recorded with the reason. Running it again fetches only what is new.

    Args:
        line: the line, as in `deployments/lines/<line>.toml`.
        window_start: first production date; default yesterday where the line stands.
        window_end: last production date, included; default the first.
    """
    logger = get_run_logger()
    systems = open_systems(line)
    window = window_of(systems.line.timezone, window_start, window_end)
    listing = list_window(systems, window)
    todo = drop_recorded(systems, window, listing)
    already_recorded = len(listing.images) - len(todo)
    counts = IngestCounts(
        listed=already_recorded + len(listing.strays), already_recorded=already_recorded, unusable=len(listing.strays)
    )
    for number, shard in enumerate(in_chunks(todo, systems.line.scoring.shard_size), start=1):
        counts += ingest_shard(systems, shard, f"{line} {number}")
    for key in listing.strays:
        logger.warning("%r does not follow the key pattern %s of %s", key, systems.line.images.key_pattern, line)
    counts.reconcile()
    logger.info("%s, %s: %s", line, window, counts)
    return counts
