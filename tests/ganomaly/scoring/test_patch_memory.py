"""The memory of patches: rare normal patches are kept, an image is not measured by its own."""

import torch

from ganomaly.scoring import patch_memory
from ganomaly.scoring.patch_memory import PatchMemory, greedy_centres
from ganomaly.scoring.score import NormalMaps

GRID = (4, 4)


def normal(n: int, seed: int = 0) -> tuple[NormalMaps, torch.Tensor]:
    """Vectors of two kinds of places, the second kind rare."""
    rng = torch.Generator().manual_seed(seed)
    x_nlk = torch.randn(n, 16, 8, generator=rng)
    x_nlk[:, 0] += 12
    return NormalMaps(lambda: x_nlk.split(8), GRID, n, None, 0), x_nlk


def test_rare_patches_are_kept() -> None:
    """A screw head that is on every part would be flagged because it is small."""
    points = torch.cat([torch.randn(500, 4) * 0.1, torch.full((2, 4), 9.0)])
    kept = greedy_centres(points, 5, torch.Generator().manual_seed(0))
    assert (points[kept] > 5).any()
    assert len(set(kept.tolist())) == 5
    assert len(greedy_centres(points[:3], 10, torch.Generator().manual_seed(0))) == 3


def test_new_normal_images_are_usual_and_odd_places_are_not(monkeypatch) -> None:
    """An image would be compared with itself, and every new one look unusual beside it."""
    monkeypatch.setattr(patch_memory, "KEPT", 200)
    maps, _ = normal(40)
    memory = PatchMemory.fit(maps)
    _, new = normal(200, seed=1)
    found = memory.map(new, None)
    assert abs(float(found.mean())) < 0.3
    new[:, 9] -= 6
    assert float(memory.map(new, None)[:, 2, 1].min()) > float(found[:, 2, 1].mean() + 2)


def test_what_is_kept_is_bounded_saved_and_restored(monkeypatch) -> None:
    """A model would grow with its images, or judge otherwise after a restart."""
    monkeypatch.setattr(patch_memory, "KEPT", 50)
    monkeypatch.setattr(patch_memory, "CANDIDATES", 120)
    maps, x_nlk = normal(90)
    memory = PatchMemory.fit(maps)
    assert len(memory.kept_mk) == 50
    assert torch.equal(PatchMemory.from_arrays(memory.to_arrays()).map(x_nlk, None), memory.map(x_nlk, None))
