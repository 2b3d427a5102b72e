"""Feature maps of many images: extracted once each, several at a time, kept in half precision on disk."""

import hashlib
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the name everybody uses
from numpy.typing import NDArray
from torch import Tensor

from ganomaly.features.engine import Maps
from ganomaly.images.recipe import Recipe

NEIGHBOURHOOD = 3
"""Each place speaks for as many places each way around it, as in PatchCore (section 3.1)."""
AT_ONCE, LEAST_DEVIATION = 8, 1e-4
EPOCH = 320
"""Images of an epoch of training, drawn from all."""


def place_vectors(maps: Sequence[Tensor]) -> tuple[Tensor, tuple[int, int]]:
    """Maps (B, C, h, w) of one or more strides as one vector for each place of the coarsest: (B, L, K), and its (h, w).

    Each number is the mean over the places around it; finer maps are averaged over the places of the coarsest.
    """
    grid = (int(maps[-1].shape[2]), int(maps[-1].shape[3]))
    parts = []
    for map_bchw in maps:
        x_bchw = F.avg_pool2d(map_bchw, NEIGHBOURHOOD, 1, NEIGHBOURHOOD // 2, count_include_pad=False)
        finer = int(map_bchw.shape[2]) // grid[0]
        parts.append(F.avg_pool2d(x_bchw, finer).flatten(2))
    return torch.cat(parts, dim=1).transpose(1, 2), grid


def vectors_of(maps: Maps) -> tuple[NDArray[np.float16], tuple[int, int]]:
    """`place_vectors` of the maps of one image: float16 (L, K), and (h, w)."""
    vectors_1lk, grid = place_vectors([torch.from_numpy(map_chw)[None] for map_chw in maps])
    vectors: NDArray[np.float16] = vectors_1lk[0].half().numpy()
    return vectors, grid


def judged_places(recipe: Recipe, grid: tuple[int, int]) -> Tensor | None:
    """1 for each place of a grid (h, w) that is judged, 0 for the others; None for all.

    Judged are places that all images show, unless nothing is looked at in all of the place.
    """
    shown, filled = recipe.scored_places, recipe.filled_places
    if shown is None and filled is None:
        return None
    judged = torch.ones(grid)
    if shown is not None:
        judged *= _share_of_places(shown, grid) == 1
    if filled is not None:
        judged *= _share_of_places(filled, grid) < 1
    return judged


def _share_of_places(pixels_hw: NDArray[np.bool_], grid: tuple[int, int]) -> Tensor:
    return F.adaptive_avg_pool2d(torch.from_numpy(pixels_hw.astype(np.float32))[None, None], grid)[0, 0]


def digest_of(image: NDArray[np.uint8]) -> bytes:
    """A short key of an image's pixels."""
    return hashlib.blake2b(np.ascontiguousarray(image).data, digest_size=16).digest()


class FeatureStore:
    """The vectors of images that were seen before, by the image's content: memory does not grow with their number.

    Args:
        extract: gives the vectors float16 (L, K) of one prepared image; asked by several threads.
        shape: (L, K).
        threads: how many images are extracted at a time.
    """

    def __init__(
        self, extract: Callable[[NDArray[np.uint8]], NDArray[np.float16]], shape: tuple[int, int], threads: int
    ) -> None:
        self._extract = extract
        self._shape = shape
        self._threads = threads
        self._file = tempfile.TemporaryFile(prefix="features-")  # noqa: SIM115 - closed with the store
        self._rows: dict[bytes, int] = {}

    def add(self, images: Sequence[NDArray[np.uint8]] | NDArray[np.uint8]) -> "StoredVectors":
        """Extract what is not there yet; gives the images' vectors in their order."""
        digests = [digest_of(image) for image in images]
        new = {digest: image for digest, image in zip(digests, images, strict=True) if digest not in self._rows}
        with ThreadPoolExecutor(self._threads, thread_name_prefix="extract") as pool:
            for digest, vectors in zip(new, pool.map(self._extract, new.values()), strict=True):
                self._file.seek(0, 2)
                self._file.write(np.ascontiguousarray(vectors).tobytes())
                self._rows[digest] = len(self._rows)
        self._file.flush()
        return StoredVectors(self._file, self._shape, [self._rows[digest] for digest in digests])

    def close(self) -> None:
        """Give the disk space back."""
        self._file.close()
        self._rows.clear()


class StoredVectors:
    """Vectors of N images on disk, float16 (N, L, K), read as they are asked for.

    Args:
        file: of one image after the other.
        shape: (L, K).
        rows: which of them, in which order.
    """

    def __init__(self, file: Any, shape: tuple[int, int], rows: Sequence[int]) -> None:
        self._all = np.memmap(file, np.float16, "r", shape=(_images_in(file, shape), *shape))
        self._rows = np.asarray(rows)
        self.places, self.size = shape

    def __len__(self) -> int:
        return len(self._rows)

    def some(self, which: NDArray[np.intp]) -> "StoredVectors":
        """Those of some of the images, which stay on disk."""
        chosen = object.__new__(type(self))
        chosen._all, chosen._rows = self._all, self._rows[which]
        chosen.places, chosen.size = self.places, self.size
        return chosen

    def __getitem__(self, which: Any) -> NDArray[np.float16]:
        return np.asarray(self._all[self._rows[which]])

    def mean_and_deviation(self) -> tuple[Tensor, Tensor]:
        """Mean and deviation (K,) of each number, over all places and images."""
        total, squares = np.zeros(self.size), np.zeros(self.size)
        for start in range(0, len(self), AT_ONCE):
            part_nk = self[start : start + AT_ONCE].astype(np.float64).reshape(-1, self.size)
            total += part_nk.sum(0)
            squares += np.square(part_nk).sum(0)
        mean = total / (len(self) * self.places)
        deviation = np.sqrt(np.maximum(squares / (len(self) * self.places) - mean**2, 0)) + LEAST_DEVIATION
        return torch.from_numpy(mean).float(), torch.from_numpy(deviation).float()


def _images_in(file: Any, shape: tuple[int, int]) -> int:
    file.seek(0, 2)
    return int(file.tell()) // (2 * shape[0] * shape[1])


class Drawn:
    """An epoch of `EPOCH` images drawn from however many there are: training takes as long for 50 as for 50,000."""

    def __init__(self, vectors: StoredVectors, rng: torch.Generator) -> None:
        self._vectors = vectors
        self._rng = rng

    def __len__(self) -> int:
        return EPOCH

    def __getitem__(self, which: NDArray[np.intp], /) -> NDArray[np.float16]:
        rows = torch.randint(len(self._vectors), (len(which),), generator=self._rng)
        return self._vectors[rows.numpy()]
