"""A discriminator over the frozen network's maps that tells drawn defects from what good parts look like.

GANomaly's scores ask how unusual a place is. Small defects drown there: an edge that moves by a pixel is as unusual to
a density as a spot. This network has seen both, edges that moved and spots that were drawn, and tells them apart.

Where it cannot (hair-thin cracks in a surface that is as rough), `learn_to_find_defects` says so by giving none.
"""

import os
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the name everybody uses
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from ganomaly.acceleration.cores import usable_cores
from ganomaly.images.drawn_defects import Image, with_defects
from ganomaly.networks.feature_ganomaly import one_cycle

Maps = Sequence[NDArray[np.float32]]
"""Of one image a map (C, h, w) for each stride, the finest first."""

WIDTH, NARROW = 64, 32
MOST_IMAGES, COPIES = 256, 2
"""Of good parts that are learned from, drawn by the seed, and copies of each that get defects."""
HELD_OUT, LEAST_HELD_OUT = 6, 8
"""Of so many images one is not learned from: it says what good images reach, and whether drawn defects are found. That
takes some of them."""
MOST_BYTES = 2e9
"""Of their maps, on disk: of large maps fewer images are learned from."""
CHANGED, UNCHANGED = 12.0, 3.0
"""Grey levels from which a place has a defect, and up to which it has none. In between nothing is asked."""
NOT_ASKED = 2
STEPS, WINDOWS, WINDOW = 500, 24, 16
"""Of training: steps, windows in each, and places of the finest map on each side of one."""
LEARNING_RATE, WEIGHT_DECAY = 5e-3, 0.05
DRAWN_SHARE = 0.6
"""Of the windows, those around a defect."""
LEAST_AUROC = 0.9
"""Of held-out places with and without a drawn defect, from which the network has something to say."""
LEAST_DEVIATION = 0.5
"""Of the highest logits of good images: a smaller one is chance."""


class DefectDiscriminator(nn.Module):
    """Tells how much a place looks like one with a defect, from the maps of the frozen network.

    Args:
        channels: of all maps together.

    Attributes:
        standard: float32 (2, C), mean and deviation of each channel on good images.
        usual: float32 (2,), mean and deviation over held-out good images of the highest logit in the image.
    """

    standard: Tensor
    usual: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(channels, WIDTH, 1),
            nn.ReLU(),
            nn.Conv2d(WIDTH, NARROW, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(NARROW, 1, 1),
        )
        self.register_buffer("standard", torch.stack([torch.zeros(channels), torch.ones(channels)]))
        self.register_buffer("usual", torch.tensor([0.0, 1.0]))

    @classmethod
    def restored(cls, weights: dict[str, Tensor]) -> "DefectDiscriminator":
        """The one whose `state_dict` these weights are.

        Raises:
            KeyError, RuntimeError: if they are none.
        """
        discriminator = cls(int(weights["standard"].shape[1]))
        discriminator.load_state_dict(weights, strict=True)
        return discriminator.eval()

    def logits(self, maps: Sequence[Tensor]) -> Tensor:
        """Logits (B, h, w) of the places of the finest of some maps (B, C, h, w)."""
        height = int(maps[0].shape[2])
        alike = [F.interpolate(one, scale_factor=height // int(one.shape[2]), mode="nearest") for one in maps[1:]]
        mean_c11, deviation_c11 = self.standard[:, :, None, None]
        logits_b1hw: Tensor = self.layers((torch.cat([maps[0], *alike], dim=1) - mean_c11) / deviation_c11)
        return logits_b1hw[:, 0]

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Deviations (B, h, w) beyond the highest logits of good images, for the places of the coarsest map."""
        deviations = (self.logits(maps) - self.usual[0]) / self.usual[1]
        coarser = int(maps[0].shape[2]) // int(maps[-1].shape[2])
        return F.max_pool2d(deviations[:, None], coarser)[:, 0]


class Seeing(nn.Module):
    """The frozen network with the discriminator behind it, if there is one.

    Args:
        network: pixels (B, 3, H, W) to maps (B, C, h, w), the finest first.
        discriminator: over these maps.
    """

    def __init__(self, network: nn.Module, discriminator: DefectDiscriminator | None) -> None:
        super().__init__()
        self.network = network
        self.discriminator = discriminator

    def forward(self, pixels_bchw: Tensor) -> list[Tensor]:
        """The maps and, last, the discriminator's deviations (B, h, w)."""
        maps = list(self.network(pixels_bchw))
        return maps if self.discriminator is None else [*maps, self.discriminator(maps)]


@dataclass(frozen=True)
class _Examples:
    """Maps of images in half precision, on disk, and where a defect changed them.

    Attributes:
        maps: for each stride (N, C, h, w).
        changed_nhw: uint8 (N, h, w) of the finest map: 1 with a defect, 0 without, `NOT_ASKED` in between.
    """

    maps: tuple[NDArray[np.float16], ...]
    changed_nhw: NDArray[np.uint8]

    def windows(self, corners: NDArray[np.intp], side: tuple[int, int]) -> tuple[list[Tensor], Tensor]:
        """Of some windows, (B, 3) image, row and column, their maps and the places that changed (B, h, w)."""
        finest = self.maps[0].shape[2]
        found = []
        for of_all in self.maps:
            reduction = finest // of_all.shape[2]
            rows, columns = (length // reduction for length in side)
            cut = [
                of_all[n, :, y // reduction : y // reduction + rows, x // reduction : x // reduction + columns]
                for n, y, x in corners.tolist()
            ]
            found.append(torch.from_numpy(np.stack(cut).astype(np.float32)))
        changed = [self.changed_nhw[n, y : y + side[0], x : x + side[1]] for n, y, x in corners.tolist()]
        return found, torch.from_numpy(np.stack(changed))

    def some(self, which: NDArray[np.intp]) -> list[Tensor]:
        """The maps of some images."""
        return [torch.from_numpy(of_all[which].astype(np.float32)) for of_all in self.maps]


def learn_to_find_defects(
    images: Sequence[Image],
    maps_of: Callable[[Image], Maps],
    seed: int,
    device: torch.device,
    judged_hw: NDArray[np.bool_] | None = None,
) -> DefectDiscriminator | None:
    """Draw defects into images of good parts and learn to find them.

    Args:
        images: uint8 (H, W, 3) each, of one size.
        maps_of: gives the maps of one image; asked by several threads.
        seed: draws images, defects, weights and their order.
        device: where it trains; the result lies on the CPU.
        judged_hw: which places of the coarsest map are judged; None for all.

    Returns:
        None where drawn defects are not found in held-out images, or too few are there to tell.
    """
    rng = np.random.default_rng(seed)
    first = maps_of(images[0])
    most = int(MOST_BYTES / (2 * (1 + COPIES) * sum(one.size for one in first)))
    chosen = [images[at] for at in rng.permutation(len(images))[: min(MOST_IMAGES, most)]]
    held_out = np.arange(len(chosen)) % HELD_OUT == 0
    if held_out.sum() < LEAST_HELD_OUT:
        return None
    with tempfile.TemporaryFile(prefix="drawn-") as file:
        examples = _drawn(chosen, held_out, maps_of, rng, file)
        if judged_hw is not None:
            finer = examples.changed_nhw.shape[1] // judged_hw.shape[0]
            examples.changed_nhw[:, ~judged_hw.repeat(finer, 0).repeat(finer, 1)] = NOT_ASKED
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            discriminator = DefectDiscriminator(sum(int(of_all.shape[1]) for of_all in examples.maps))
        discriminator.standard = _standard(examples, np.flatnonzero(~held_out))
        discriminator.to(device)
        _train(discriminator, examples, np.flatnonzero(np.tile(~held_out, 1 + COPIES)), rng)
        discriminator.eval()
        found = _try_out(discriminator, examples, held_out)
    return discriminator.cpu() if found >= LEAST_AUROC else None


def _drawn(
    images: Sequence[Image],
    held_out: NDArray[np.bool_],
    maps_of: Callable[[Image], Maps],
    rng: np.random.Generator,
    file: BinaryIO,
) -> _Examples:
    """Maps of the images and, after them, of copies with defects, which show nothing of other held-out images."""
    first, seeds = maps_of(images[0]), rng.integers(2**31, size=(COPIES, len(images)))
    others = [image for image, out in zip(images, held_out.tolist(), strict=True) if not out]

    def look(copy: int, at: int) -> tuple[Maps, NDArray[np.uint8] | int]:
        if copy == 0:
            return maps_of(images[at]), 0
        drawn, changed = with_defects(images[at], others, np.random.default_rng(seeds[copy - 1, at]))
        return maps_of(drawn), _places(changed, first[0].shape[1:])

    n, sizes = (1 + COPIES) * len(images), [one.size for one in first]
    if hasattr(os, "posix_fallocate"):  # a full disk is an error here, and none in the middle of a write to memory
        os.posix_fallocate(file.fileno(), 0, 2 * n * sum(sizes))
    all_numbers = np.memmap(file, np.float16, "w+", shape=(sum(sizes) * n,))
    starts = np.cumsum([0, *(size * n for size in sizes)])
    maps = tuple(
        all_numbers[start : start + size * n].reshape(n, *one.shape)
        for start, size, one in zip(starts.tolist(), sizes, first, strict=False)
    )
    changed_nhw = np.zeros((n, *first[0].shape[1:]), np.uint8)
    tasks = [(copy, at) for copy in range(1 + COPIES) for at in range(len(images))]
    with ThreadPoolExecutor(usable_cores(), thread_name_prefix="draw") as pool:
        for row, (found, changed) in enumerate(pool.map(lambda task: look(*task), tasks)):
            for of_all, one in zip(maps, found, strict=True):
                of_all[row] = one
            changed_nhw[row] = changed
    return _Examples(maps, changed_nhw)


def _places(changed: NDArray[np.float32], grid: tuple[int, ...]) -> NDArray[np.uint8]:
    """1 for places (h, w) that a defect changed, 0 for those that none did, 2 in between."""
    most_hw = F.adaptive_max_pool2d(torch.from_numpy(changed)[None], grid)[0].numpy()
    return np.where(most_hw > CHANGED, 1, np.where(most_hw < UNCHANGED, 0, NOT_ASKED)).astype(np.uint8)


def _standard(examples: _Examples, which: NDArray[np.intp]) -> Tensor:
    """Mean and deviation of each channel, (2, C)."""
    few = examples.some(which[:: -(-len(which) // 64)])
    means = torch.cat([of_all.mean(dim=(0, 2, 3)) for of_all in few])
    deviations = torch.cat([of_all.std(dim=(0, 2, 3)) for of_all in few])
    return torch.stack([means, deviations + 1e-3])


def _train(
    discriminator: DefectDiscriminator, examples: _Examples, learned: NDArray[np.intp], rng: np.random.Generator
) -> None:
    height, width = examples.changed_nhw.shape[1:]
    step = int(examples.maps[0].shape[2] // examples.maps[-1].shape[2])  # windows begin at places of the coarsest map
    side = max(step, min(WINDOW, height) // step * step), max(step, min(WINDOW, width) // step * step)
    defects_m3 = np.argwhere(examples.changed_nhw == 1)
    defects_m3 = defects_m3[np.isin(defects_m3[:, 0], learned)]
    _, first, counts = np.unique(defects_m3[:, 0], return_index=True, return_counts=True)
    optimiser = torch.optim.AdamW(discriminator.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda at: one_cycle(at / STEPS))
    n_around, furthest = round(DRAWN_SHARE * WINDOWS), np.array([height - side[0], width - side[1]])
    for _ in range(STEPS if len(defects_m3) else 0):
        anywhere_b3 = np.stack(
            [rng.choice(learned, WINDOWS), *(rng.integers(0, furthest[:, None] + 1, (2, WINDOWS)))], 1
        )
        of_image = rng.integers(len(first), size=n_around)  # however large its defects are
        around_b3 = defects_m3[first[of_image] + rng.integers(0, counts[of_image])]
        around_b3[:, 1:] -= rng.integers(0, side, (n_around, 2))
        corners_b3 = np.concatenate([around_b3, anywhere_b3[n_around:]])
        corners_b3[:, 1:] = np.clip(corners_b3[:, 1:], 0, furthest) // step * step
        maps, changed_bhw = examples.windows(corners_b3, side)
        device = discriminator.standard.device
        logits_bhw = discriminator.logits([of_all.to(device) for of_all in maps])
        with_bhw, without_bhw = (changed_bhw == 1).to(device), (changed_bhw == 0).to(device)
        missed, alarmed = F.softplus(-logits_bhw), F.softplus(logits_bhw)
        loss = (missed * with_bhw).sum() / with_bhw.sum().clamp(min=1)
        loss = loss + (alarmed * without_bhw).sum() / without_bhw.sum().clamp(min=1)
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        optimiser.step()
        schedule.step()


@torch.no_grad()
def _try_out(discriminator: DefectDiscriminator, examples: _Examples, held_out: NDArray[np.bool_]) -> float:
    """Note what held-out good images reach; gives the AUROC of held-out places with and without a drawn defect."""
    device = discriminator.standard.device

    def logits(rows: NDArray[np.intp]) -> Tensor:
        of_each = (
            discriminator.logits([one.to(device) for one in examples.some(rows[at : at + 1])])
            for at in range(len(rows))
        )
        return torch.cat(list(of_each)).cpu()

    is_judged = torch.from_numpy((examples.changed_nhw != NOT_ASKED)[: len(held_out)].any(0))
    highest_n = logits(np.flatnonzero(held_out))[:, is_judged].amax(1)
    deviation = highest_n.std(correction=0).clamp(min=LEAST_DEVIATION)
    discriminator.usual = torch.stack([highest_n.mean(), deviation]).to(device)
    copies = np.flatnonzero(np.tile(held_out, 1 + COPIES))
    copies = copies[copies >= len(held_out)]
    changed, found = examples.changed_nhw[copies].ravel(), logits(copies).flatten().numpy()
    asked = changed != NOT_ASKED
    if len(np.unique(changed[asked])) < 2 or not np.isfinite(found).all() or not torch.isfinite(highest_n).all():
        return 0.0
    return float(roc_auc_score(changed[asked], found[asked]))
