"""The outside systems of one line, opened once by a flow and handed to its tasks."""

from dataclasses import dataclass

from tasks.bucket.bucket import ObjectStore
from tasks.lines.line import LineConfig, load_line
from tasks.process import set_up_process
from tasks.registry.registry import ModelRegistry
from tasks.settings import Settings
from tasks.store.store import ReportStore


@dataclass(frozen=True)
class Systems:
    """A line, where its images are, where its results go and where its models are kept."""

    settings: Settings
    line: LineConfig
    objects: ObjectStore
    store: ReportStore
    registry: ModelRegistry


def open_systems(line: str) -> Systems:
    """Read the settings and the line's file and open what they name.

    Raises:
        ConfigError: for a wrong setting or line file.
        SchemaError: if the report store's tables are older or newer than the code.
    """
    settings = Settings()
    return systems_of(settings, load_line(line, settings.lines_dir))


def systems_of(settings: Settings, config: LineConfig) -> Systems:
    """Open what the settings name for a line.

    Raises:
        SchemaError: if the report store's tables are older or newer than the code.
    """
    set_up_process()
    store = ReportStore(settings.store_url)
    store.prepare()
    objects = ObjectStore(
        settings.bucket,
        settings.s3_endpoint_url,
        max_connections=max(16, config.scoring.fetch_threads),
        read_timeout_s=settings.s3_read_timeout_s,
    )
    registry = ModelRegistry(settings.mlflow_tracking_uri, settings.mlflow_artifact_root)
    return Systems(settings, config, objects, store, registry)
