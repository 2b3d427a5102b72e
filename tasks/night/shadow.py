"""Let the challenger judge a night beside the champion: what it says is recorded, and is nobody's verdict.

Whatever goes wrong with it is a warning: a night never waits for a model that does not judge it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from prefect.logging import get_run_logger

from tasks.night.fetching import FetchedImage
from tasks.night.pinned import PinnedModel
from tasks.store.rows import ShadowRecord
from tasks.systems import Systems

Said = dict[tuple[str, str], ShadowRecord]
"""What a challenger says, by key and ETag."""


@dataclass(frozen=True)
class ShadowModel:
    """The challenger that judges beside a champion.

    Attributes:
        model: its version and detector.
        shares_preparation: whether both bring images into the same form, so that it costs its networks only.
    """

    model: PinnedModel
    shares_preparation: bool

    def judge(self, fetched: Sequence[FetchedImage]) -> Said:
        """What it says of the images of a chunk; of none where it fails."""
        try:
            return self._judge(fetched)
        except Exception as error:
            get_run_logger().warning("%s does not judge %d images: %r", self.model.version.uri, len(fetched), error)
            return {}

    def _judge(self, fetched: Sequence[FetchedImage]) -> Said:
        detector = self.model.detector
        if self.shares_preparation:
            prepared = [found.prepared for found in fetched]
        else:
            prepared = list(detector.prepare_all([found.data for found in fetched]))
        every = np.ones(len(prepared), dtype=bool)
        scores = iter(detector.score_prepared(detector.stack(prepared, every)))
        said: Said = {}
        for found, one in zip(fetched, prepared, strict=True):
            score = next(scores) if one.usable else None
            said[found.image.identity] = (
                ShadowRecord("unusable") if score is None else ShadowRecord(score.verdict, score.normalised)
            )
        return said


def pin_shadow(systems: Systems, champion: PinnedModel, device: str) -> ShadowModel | None:
    """The line's challenger, where `models.shadow` wants it to judge beside the champion; None where there is none."""
    if not systems.line.models.shadow:
        return None
    registry, logger = systems.registry, get_run_logger()
    try:
        version = registry.challenger(systems.line.name)
        if version is None or version.version == champion.version.version:
            return None
        detector = registry.load_detector(version, systems.settings.work_dir / "models", device)
    except Exception as error:
        logger.warning("no challenger judges beside %s: %r", champion.version.uri, error)
        return None
    ours, its = champion.detector.config, detector.config
    shares = (ours.recipe, ours.quality) == (its.recipe, its.quality)
    logger.info("%s judges beside %s; its verdicts are recorded and not reported", version.uri, champion.version.uri)
    return ShadowModel(PinnedModel(version, detector), shares)


def record_shadow(systems: Systems, run_id: str, shadow: ShadowModel, said: Said) -> None:
    """Record what the challenger says of images that are recorded by now."""
    model = shadow.model
    judge = (model.version.version, model.calibration_id)
    try:
        systems.store.shadow.commit(run_id, systems.line.name, judge, said)
    except Exception as error:
        get_run_logger().warning("what %s says of %d images is not recorded: %r", model.version.uri, len(said), error)
