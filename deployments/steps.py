"""Steps that `prefect deploy` runs; `prefect.yaml` names them."""

from tasks.settings import Settings
from tasks.store.store import ReportStore


def upgrade_report_store() -> dict[str, str]:
    """Bring the report store's tables to the version of the code that is deployed; gives its address.

    Raises:
        SchemaError: if the tables are newer than the code.
    """
    with ReportStore(Settings().store_url) as store:
        store.upgrade()
        return {"report_store": store.url.render_as_string(hide_password=True)}
