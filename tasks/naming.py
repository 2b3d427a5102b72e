"""Names of flow runs that say which line and which production date."""

from prefect import runtime


def name_run() -> str:
    """For example ``nightly elpv-mono 2026-03-08``; without a date it is the last production."""
    parameters = runtime.flow_run.parameters
    dates = [parameters.get(name) for name in ("production_date", "window_start", "window_end")]
    given = list(dict.fromkeys(str(day) for day in dates if day is not None))
    return f"{runtime.flow_run.flow_name} {parameters.get('line')} {' to '.join(given) or 'last production'}"
