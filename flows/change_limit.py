"""Flow ``change-limit``: the champion's networks with another limit, as a challenger."""

from prefect import flow

from tasks.night.pinned import pin_model
from tasks.promotion.recalibrate import recalibrate
from tasks.registry.versions import ModelVersion
from tasks.systems import open_systems


@flow(name="change-limit", flow_run_name="change limit of {line}")
def change_limit(line: str, false_reject_rate: float) -> ModelVersion:
    """Register a version that judges as the champion does and promises another false-reject rate.

    It is `@challenger`: flow `promote-model` decides about it, as about any other.

    Args:
        line: the line, as in `deployments/lines/<line>.toml`.
        false_reject_rate: the share of good parts that may be flagged, in (0, 1).
    """
    systems = open_systems(line)
    return recalibrate(systems, pin_model(systems, None, "cpu"), false_reject_rate)
