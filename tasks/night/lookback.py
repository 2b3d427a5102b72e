"""Which earlier days a nightly run looks at again: images can reach the bucket after their day was judged."""

from datetime import date, timedelta

from prefect import task

from tasks.systems import Systems


@task(name="days-to-revisit", persist_result=False)
def days_to_revisit(systems: Systems, day: date) -> list[tuple[date, int]]:
    """The days before ``day`` that were judged before, within the line's lookback, and the model version that did.

    A late image is judged by the model that judged the rest of its day. Days on which nothing ran are left alone.
    """
    days = []
    for back in range(1, systems.line.scoring.lookback_days + 1):
        earlier = day - timedelta(days=back)
        newest = systems.store.runs.newest(systems.line.name, earlier, earlier)
        if newest is not None:
            days.append((earlier, newest.model_version))
    return days
