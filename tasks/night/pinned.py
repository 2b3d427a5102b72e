"""The model version that judges a whole run, resolved once."""

from dataclasses import dataclass

from prefect import task

from ganomaly import Detector
from tasks.registry.reaching import ModelRegistryError
from tasks.registry.versions import ModelVersion, model_name
from tasks.steps import NETWORK_STEP
from tasks.systems import Systems


class NoChampionError(ModelRegistryError):
    """The line has no model that could score yet."""


@dataclass(frozen=True)
class PinnedModel:
    """The model version that judges a whole run, whatever happens to the alias meanwhile."""

    version: ModelVersion
    detector: Detector

    @property
    def calibration_id(self) -> str:
        """The detector's calibration."""
        return self.detector.calibrated.id


@task(name="pin-model", **NETWORK_STEP, persist_result=False)
def pin_model(systems: Systems, version: int | None, device: str) -> PinnedModel:
    """Resolve the champion, or the version asked for, once, and load its detector.

    Raises:
        NoChampionError: if the line has no champion; says how to get one.
        ModelRegistryError: if there is no such version.
    """
    line, registry = systems.line.name, systems.registry
    found = registry.champion(line) if version is None else registry.version(line, version)
    where = f"in MLflow at {registry.address}; train one with `inspection train {line}`"
    if found is None and version is None:
        raise NoChampionError(f"{model_name(line)} has no champion {where}")
    if found is None:
        raise ModelRegistryError(f"{model_name(line)} has no version {version} {where}, or take another version")
    return PinnedModel(found, registry.load_detector(found, systems.settings.work_dir / "models", device))
