"""The numbers that scores read of each place of an image: features, roughness, and logits of discriminators."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ganomaly.acceleration.cores import usable_cores
from ganomaly.config import DetectorConfig
from ganomaly.errors import TrainingDataError
from ganomaly.features.extractor import FeatureExtractor
from ganomaly.features.vectors import FeatureStore, StoredVectors, judged_places, vectors_of
from ganomaly.judges.judge import PreparedImages
from ganomaly.networks.defect_discriminator import DefectDiscriminator, DrawnCopies, drawn_copies
from ganomaly.scoring.alarms import NOT_JUDGED, roughness

BATCH = 8
"""Images that are read together."""
N_COPIES = 512
"""Images with drawn defects that are made of a line's images, however many these are."""
AT_ONCE = 6
"""Of all places' covariances, that are in memory at once while scores are fitted."""
MOST_BYTES = 8e9


class ImageVectors:
    """Gives the vectors of prepared images, uint8 (H, W, 3): K features, G of roughness and D logits for each place.

    Args:
        config: of the detector; its recipe knows the size of the network's input.
        device: where networks compute.

    Attributes:
        extractor: the frozen network, and behind it discriminators that find drawn defects, where some do.
        grid: (h, w), L = h * w; known once an image was seen.
        n_features: K, likewise.
        n_fields: G, likewise.
    """

    def __init__(self, config: DetectorConfig, device: torch.device) -> None:
        self._config = config
        self._device = device
        self._store: FeatureStore | None = None
        self.extractor = FeatureExtractor(config, device)
        self.grid = (0, 0)
        self.n_features = 0
        self.n_fields = 0

    def of(self, image_hwc: NDArray[np.uint8]) -> NDArray[np.float16]:
        """Features, roughness and logits of each place of an image, (L, K + G + D)."""
        maps, logits = self.extractor.maps(image_hwc)
        vectors, self.grid = vectors_of(maps)
        self.n_features = vectors.shape[1]
        rough = roughness(image_hwc, self.grid)
        self.n_fields = rough.shape[1]
        logits_ld = np.stack([one.ravel() for one in logits], axis=1) if logits else np.empty((len(rough), 0))
        if self.places is not None:
            is_dull = self.places.cpu().numpy().ravel() == 0
            rough[is_dull], logits_ld[is_dull] = 0, NOT_JUDGED  # the same on all images: nothing is unusual there
        return np.concatenate([vectors, rough, logits_ld.astype(np.float16)], axis=1)

    def of_all(self, images_nhwc: PreparedImages) -> StoredVectors:
        """The same of several images, (N, L, K + G + D), on disk; computed once for each.

        Raises:
            TrainingDataError: if the memory is too small for what will be fitted.
        """
        if self._store is None:
            shape = self._look(images_nhwc[0])
            self._store = FeatureStore(self.of, shape, usable_cores())
        return self._store.add(images_nhwc)

    def _look(self, image_hwc: NDArray[np.uint8]) -> tuple[int, int]:
        """Learn the grid from a first image; gives (L, K + G + D)."""
        places, numbers = self.of(image_hwc).shape
        needed = places * numbers**2 * 4 * AT_ONCE
        if needed > MOST_BYTES:
            raise TrainingDataError(
                f"a covariance for each of {places:,} places of {numbers:,} numbers takes about {needed / 1e9:.0f} GB, "
                f"more than {MOST_BYTES / 1e9:.0f}: lower recipe.resolution, or take "
                "other features.strides"
            )
        return places, numbers

    def forget(self) -> None:
        """Give the disk space back."""
        if self._store is not None:
            self._store.close()
        self._store = None

    def logits(self, vectors: StoredVectors, discriminator: int) -> NDArray[np.float32]:
        """Logits of one discriminator for the places of images, (N, h, w)."""
        column = vectors.size - len(self.extractor.discriminators) + discriminator
        starts = range(0, len(vectors), BATCH)
        logits_nl = np.concatenate([vectors[start : start + BATCH][..., column] for start in starts])
        return logits_nl.astype(np.float32).reshape(-1, *self.grid)

    def drawn_copies(
        self, images_nhwc: PreparedImages, group_n: NDArray[np.intp]
    ) -> AbstractContextManager[DrawnCopies]:
        """Copies of images with drawn defects, see `ganomaly.networks.defect_discriminator.drawn_copies`.

        Discriminators that were there before are dropped: others are about to be learned.

        Raises:
            TrainingDataError: if the memory is too small for what will be fitted.
        """
        self.set_discriminators(())
        self._look(images_nhwc[0])
        judged_hw = None if self.places is None else self.places.cpu().numpy() > 0
        settings = N_COPIES, self._config.training.seed, judged_hw
        return drawn_copies(list(images_nhwc), group_n, lambda image: self.extractor.maps(image)[0], *settings)

    def set_discriminators(self, discriminators: Sequence[DefectDiscriminator]) -> None:
        """Put others behind the frozen network."""
        if len(discriminators) or self.extractor.discriminators:
            self.extractor.discriminators = discriminators
            self.forget()  # they have other columns

    @cached_property
    def places(self) -> Tensor | None:
        """1 for each place of a map that is judged, 0 for the others, (h, w); None for all."""
        judged = judged_places(self._config.recipe, self.grid)
        return None if judged is None else judged.to(self._device)
