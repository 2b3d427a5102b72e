"""Flow ``confirm-night``: release the verdicts of a night that was withheld, and write its report anew."""

from datetime import date

from prefect import flow

from flows.score_batch import NightResult, score_batch
from tasks.lines.window import window_of
from tasks.night.drift import release_window
from tasks.steps import name_run
from tasks.systems import open_systems


@flow(name="confirm-night", flow_run_name=name_run)
def confirm_night(line: str, window_start: date | None, window_end: date | None, who: str, why: str) -> NightResult:
    """Record who says that the verdicts of a suspect window may be used, and publish its report with them.

    Args:
        line: the line, as in `deployments/lines/<line>.toml`.
        window_start: first production date; default yesterday.
        window_end: last production date, included; default the first.
        who: a person.
        why: the verdicts may be used.
    """
    systems = open_systems(line)
    window = window_of(systems.line.timezone, window_start, window_end, None)
    model_version = release_window(systems, window, who, why)
    return score_batch(line, window.start, window.end, model_version, device="cpu")
