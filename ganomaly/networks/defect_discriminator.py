"""A discriminator over the frozen network's maps that tells drawn defects from what good parts look like.

GANomaly's scores ask how unusual a place is. Small defects drown there: an edge that moves by a pixel is as unusual to
a density as a spot. This network has seen both, edges that moved and spots that were drawn, and tells them apart.

Where it cannot (hair-thin cracks in a surface that is as rough), `learn_to_find_defects` gives none.
"""

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

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

WIDTH, NARROW = 32, 16
LEAST_COPIES, MOST_TRIED = 16, 96
"""Fewest that can be learned from, and tried on; and most that are tried on."""
MOST_BYTES = 2e9
"""Of the copies' maps, on disk: of large maps fewer are made."""
CHANGED, UNCHANGED = 12.0, 3.0
"""Grey levels from which a place has a defect, and up to which it has none. In between nothing is asked."""
NOT_ASKED = 2
WINDOWS, WINDOW = 24, 16
"""Windows of each step of the training, and places of the finest map on each side of one. Each copy gives a step."""
LEARNING_RATE, WEIGHT_DECAY = 5e-3, 0.05
DRAWN_SHARE = 0.6
"""Of the windows, those around a defect."""
SAMPLE = 64
"""Copies that tell mean and deviation of each channel."""
LEAST_AUROC = 0.8
"""Of places with and without a drawn defect in images that were not learned from: less is not worth listening to."""
LARGEST = 1e4
"""Logits are cut there: they are kept in half precision."""


class DefectDiscriminator(nn.Module):
    """Tells how much a place looks like one with a defect, from the maps of the frozen network.

    Args:
        channels: of each map, the finest first.
    """

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        self.standard = nn.ModuleList(nn.BatchNorm2d(n, affine=False) for n in channels)
        self.mixed = nn.ModuleList(nn.Conv2d(n, WIDTH, 1) for n in channels)
        self.layers = nn.Sequential(
            nn.ReLU(), nn.Conv2d(WIDTH, NARROW, 3, padding=1), nn.ReLU(), nn.Conv2d(NARROW, 1, 1)
        )

    @classmethod
    def restored(cls, weights: Mapping[str, Tensor]) -> "DefectDiscriminator":
        """The one whose `state_dict` these weights are.

        Raises:
            KeyError, RuntimeError: if they are none.
        """
        sizes = {name: len(tensor) for name, tensor in weights.items() if name.endswith("running_mean")}
        discriminator = cls([sizes[f"standard.{at}.running_mean"] for at in range(len(sizes))])
        discriminator.load_state_dict(dict(weights), strict=True)
        return discriminator.eval()

    def finest(self, maps: Sequence[Tensor]) -> Tensor:
        """Logits (B, h, w) of the places of the finest of some maps (B, C, h, w)."""
        height = int(maps[0].shape[2])
        mixed_bchw = torch.zeros(())
        for map_bchw, standard, mix in zip(maps, self.standard, self.mixed, strict=True):
            of_map = mix(standard(map_bchw))  # the same for all the finer places of one: enlarged afterwards
            mixed_bchw = mixed_bchw + F.interpolate(of_map, scale_factor=height // int(map_bchw.shape[2]))
        logits_b1hw: Tensor = self.layers(mixed_bchw)
        return logits_b1hw[:, 0]

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Logits (B, h, w) of the places of the coarsest map: the highest in each."""
        coarser = int(maps[0].shape[2]) // int(maps[-1].shape[2])
        return F.max_pool2d(self.finest(maps)[:, None], coarser)[:, 0].clamp(-LARGEST, LARGEST)


class Seeing(nn.Module):
    """The frozen network with discriminators behind it.

    Args:
        network: pixels (B, 3, H, W) to maps (B, C, h, w), the finest first.
        discriminators: over these maps.
    """

    def __init__(self, network: nn.Module, discriminators: Sequence[DefectDiscriminator]) -> None:
        super().__init__()
        self.network = network
        self.discriminators = nn.ModuleList(discriminators)

    def forward(self, pixels_bchw: Tensor) -> list[Tensor]:
        """The maps and, behind them, the logits (B, h, w) of each discriminator."""
        maps = list(self.network(pixels_bchw))
        return [*maps, *(one(maps) for one in self.discriminators)]


@dataclass(frozen=True)
class DrawnCopies:
    """Copies of images with drawn defects: their maps in half precision, on disk, and where they were changed.

    Attributes:
        maps: for each stride (M, C, h, w).
        changed_mhw: uint8 (M, h, w) of the finest map: 1 with a defect, 0 without, `NOT_ASKED` in between.
        image_m: (M,) the image that each is a copy of.
    """

    maps: tuple[NDArray[np.float16], ...]
    changed_mhw: NDArray[np.uint8]
    image_m: NDArray[np.intp]

    def windows(self, corners: NDArray[np.intp], side: tuple[int, int]) -> tuple[list[Tensor], Tensor]:
        """Of some windows, (B, 3) copy, row and column, their maps and the places that changed (B, h, w)."""
        finest = self.maps[0].shape[2]
        found = []
        for of_all in self.maps:
            reduction = finest // of_all.shape[2]
            rows, columns = (length // reduction for length in side)
            cut = [
                of_all[m, :, y // reduction : y // reduction + rows, x // reduction : x // reduction + columns]
                for m, y, x in corners.tolist()
            ]
            found.append(torch.from_numpy(np.stack(cut).astype(np.float32)))
        changed = [self.changed_mhw[m, y : y + side[0], x : x + side[1]] for m, y, x in corners.tolist()]
        return found, torch.from_numpy(np.stack(changed))

    def some(self, which: NDArray[np.intp]) -> list[Tensor]:
        """The maps of some copies."""
        return [torch.from_numpy(of_all[which].astype(np.float32)) for of_all in self.maps]


@contextmanager
def drawn_copies(
    images: Sequence[Image],
    group_n: NDArray[np.intp],
    maps_of: Callable[[Image], Maps],
    n_copies: int,
    seed: int,
    judged_hw: NDArray[np.bool_] | None = None,
) -> Iterator[DrawnCopies]:
    """Draw defects into copies of images of good parts.

    Args:
        images: uint8 (H, W, 3) each, of one size.
        group_n: of each image, (N,). A defect may show what other images of the group show, and no others.
        maps_of: gives the maps of one image; asked by several threads.
        n_copies: how many: of few images several each, of many one each of some.
        seed: draws everything.
        judged_hw: which places of the coarsest map are judged; None for all.
    """
    rng, first = np.random.default_rng(seed), maps_of(images[0])
    sizes, grid = [one.size for one in first], first[0].shape[1:]
    n_copies = min(n_copies, int(MOST_BYTES / (2 * sum(sizes))))
    seeds, image_m = rng.integers(2**31, size=n_copies), np.resize(rng.permutation(len(images)), n_copies)
    groups = {
        group: [images[at] for at in np.flatnonzero(group_n == group).tolist()] for group in set(group_n.tolist())
    }

    def look(copy: int) -> tuple[Maps, NDArray[np.uint8]]:
        at = int(image_m[copy])
        drawn, changed = with_defects(images[at], groups[int(group_n[at])], np.random.default_rng(seeds[copy]))
        return maps_of(drawn), _places(changed, grid)

    with tempfile.TemporaryFile(prefix="drawn-") as file:
        if hasattr(os, "posix_fallocate"):  # a full disk is an error here, and none in the middle of a write to memory
            os.posix_fallocate(file.fileno(), 0, 2 * n_copies * sum(sizes))
        all_numbers = np.memmap(file, np.float16, "w+", shape=(sum(sizes) * n_copies,))
        starts = np.cumsum([0, *(size * n_copies for size in sizes)])
        maps = tuple(
            all_numbers[start : start + size * n_copies].reshape(n_copies, *one.shape)
            for start, size, one in zip(starts.tolist(), sizes, first, strict=False)
        )
        changed_mhw = np.zeros((n_copies, *grid), np.uint8)
        with ThreadPoolExecutor(usable_cores(), thread_name_prefix="draw") as pool:
            for row, (found, changed) in enumerate(pool.map(look, range(n_copies))):
                for of_all, one in zip(maps, found, strict=True):
                    of_all[row] = one
                changed_mhw[row] = changed
        if judged_hw is not None:
            finer = grid[0] // judged_hw.shape[0]
            changed_mhw[:, ~judged_hw.repeat(finer, 0).repeat(finer, 1)] = NOT_ASKED
        yield DrawnCopies(maps, changed_mhw, image_m)


def learn_to_find_defects(
    copies: DrawnCopies,
    learned_n: NDArray[np.bool_],
    tried_n: NDArray[np.bool_],
    seed: int,
    device: torch.device,
) -> DefectDiscriminator | None:
    """Learn to tell drawn defects from the rest of the picture.

    Args:
        copies: of N images.
        learned_n: images whose copies are learned from, (N,).
        tried_n: images whose copies tell whether defects are found, (N,).
        seed: draws weights and their order.
        device: where it trains; the result lies on the CPU.

    Returns:
        None where they are not found, or too few copies are there to tell.
    """
    learned, tried = (np.flatnonzero(which_n[copies.image_m]) for which_n in (learned_n, tried_n))
    if min(len(learned), len(tried)) < LEAST_COPIES:
        return None
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        discriminator = DefectDiscriminator([int(of_all.shape[1]) for of_all in copies.maps])
    _standardise(discriminator, copies, learned)
    discriminator.to(device)
    _train(discriminator, copies, learned, np.random.default_rng(seed))
    return discriminator.cpu() if _auroc(discriminator, copies, tried[:MOST_TRIED]) >= LEAST_AUROC else None


def learn_without_folds(
    copies: DrawnCopies, fold_n: NDArray[np.intp], n_folds: int, seed: int, device: torch.device
) -> tuple[list[DefectDiscriminator | None], NDArray[np.bool_]]:
    """For each fold one that learned without it, see `learn_to_find_defects`, and images that it did not see either.

    Args:
        copies: of N images, each of which shows nothing of other folds.
        fold_n: of each image, (N,); those from `n_folds` up belong to no fold that is left out.
        n_folds: F.
        seed: draws for each fold half of the other folds, which are not learned from.
        device: where they train.

    Returns:
        F of them, and which images of other folds each did not learn from, (F, N).
    """
    found, unseen_fn = [], np.zeros((n_folds, len(fold_n)), dtype=bool)
    for fold in range(n_folds):
        others = np.random.default_rng([seed, fold]).permutation(np.setdiff1d(np.arange(n_folds), fold))
        unseen_fn[fold] = np.isin(fold_n, others[: -(-len(others) // 2)])
        learned_n = ~unseen_fn[fold] & (fold_n != fold)
        found.append(learn_to_find_defects(copies, learned_n, unseen_fn[fold], seed, device))
    return found, unseen_fn


def _places(changed: NDArray[np.float32], grid: tuple[int, ...]) -> NDArray[np.uint8]:
    """1 for places (h, w) that a defect changed, 0 for those that none did, 2 in between."""
    most_hw = F.adaptive_max_pool2d(torch.from_numpy(changed)[None], grid)[0].numpy()
    return np.where(most_hw > CHANGED, 1, np.where(most_hw < UNCHANGED, 0, NOT_ASKED)).astype(np.uint8)


def _standardise(discriminator: DefectDiscriminator, copies: DrawnCopies, learned: NDArray[np.intp]) -> None:
    """Let it see each channel with a mean of 0 and a deviation of 1."""
    few = copies.some(learned[:: -(-len(learned) // SAMPLE)])
    for standard, of_all in zip(discriminator.standard, few, strict=True):
        assert isinstance(standard, nn.BatchNorm2d)
        standard.running_mean, standard.running_var = of_all.mean(dim=(0, 2, 3)), of_all.var(dim=(0, 2, 3))
    discriminator.standard.eval()


def _train(
    discriminator: DefectDiscriminator, copies: DrawnCopies, learned: NDArray[np.intp], rng: np.random.Generator
) -> None:
    n, (height, width) = len(learned), copies.changed_mhw.shape[1:]
    step = int(copies.maps[0].shape[2] // copies.maps[-1].shape[2])  # windows begin at places of the coarsest map
    side = max(step, min(WINDOW, height) // step * step), max(step, min(WINDOW, width) // step * step)
    defects_d3 = np.argwhere(copies.changed_mhw[learned] == 1)
    _, first, counts = np.unique(defects_d3[:, 0], return_index=True, return_counts=True)
    optimiser = torch.optim.AdamW(discriminator.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda at: one_cycle(at / n))
    n_around, furthest = round(DRAWN_SHARE * WINDOWS), np.array([height - side[0], width - side[1]])
    device = next(discriminator.parameters()).device
    for _ in range(n if len(defects_d3) else 0):
        anywhere_b3 = np.stack(
            [rng.integers(n, size=WINDOWS), *rng.integers(0, furthest[:, None] + 1, (2, WINDOWS))], 1
        )
        of_image = rng.integers(len(first), size=n_around)  # however large its defects are
        around_b3 = defects_d3[first[of_image] + rng.integers(0, counts[of_image])]
        around_b3[:, 1:] -= rng.integers(0, side, (n_around, 2))
        corners_b3 = np.concatenate([around_b3, anywhere_b3[n_around:]])
        corners_b3[:, 1:] = np.clip(corners_b3[:, 1:], 0, furthest) // step * step
        corners_b3[:, 0] = learned[corners_b3[:, 0]]
        maps, changed_bhw = copies.windows(corners_b3, side)
        logits_bhw = discriminator.finest([of_all.to(device) for of_all in maps])
        with_bhw, without_bhw = (changed_bhw == 1).to(device), (changed_bhw == 0).to(device)
        missed, alarmed = F.softplus(-logits_bhw), F.softplus(logits_bhw)
        loss = (missed * with_bhw).sum() / with_bhw.sum().clamp(min=1)
        loss = loss + (alarmed * without_bhw).sum() / without_bhw.sum().clamp(min=1)
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        optimiser.step()
        schedule.step()
    discriminator.eval()


@torch.no_grad()
def _auroc(discriminator: DefectDiscriminator, copies: DrawnCopies, tried: NDArray[np.intp]) -> float:
    """AUROC of places with and without a drawn defect."""
    device, found = next(discriminator.parameters()).device, []
    for at in tried:
        maps = [one.to(device) for one in copies.some(np.array([at]))]
        found.append(discriminator.finest(maps)[0].cpu().numpy())
    logits_thw, changed_thw = np.stack(found), copies.changed_mhw[tried]
    asked_thw = changed_thw != NOT_ASKED
    if len(np.unique(changed_thw[asked_thw])) < 2 or not np.isfinite(logits_thw).all():
        return 0.0
    return float(roc_auc_score(changed_thw[asked_thw], logits_thw[asked_thw]))
