"""anomalib's PatchCore and PaDiM on the folders that `ganomaly benchmark` measures, through the same frozen network.

    make var/bench/anomalib/.installed
    python -m tests.benchmarks.anomalib_folders FOLDER...

FOLDER has the layout of MVTec AD, or is "elpv-mono" or "elpv-poly". Their images have anomalib's 256 x 256 px; the
network is ours with its weights, and the two maps that ours takes. All other settings are anomalib's, but for the size
of PatchCore's memory. Prints the AUROC of images of each.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from safetensors.torch import save_file

from ganomaly.acceleration.cores import usable_cores
from ganomaly.evaluation.folders import InspectionSet, read_folder, solar_cells
from ganomaly.evaluation.machine import describe_machine
from ganomaly.evaluation.metrics import image_auroc
from ganomaly.features.backbone import FeaturesConfig, load_backbone
from ganomaly.images.preparation import ImageSource
from tests.benchmarks.bench.contest import ANOMALIB, HERE, Contestant
from tests.benchmarks.bench.data import place

METHODS = ("PatchCore", "PaDiM")
LOG = Path("var/bench/anomalib-folders.log")
OURS = "maps.model."
"""Prefix of our backbone before timm's names of weights."""


def laid_out(images: Sequence[ImageSource], folder: Path) -> Path:
    """A flat folder of the images, in the order of their names."""
    for number, path in enumerate(images):
        assert isinstance(path, Path)
        place(path, folder / f"{number:06}{path.suffix}")
    return folder


def measure(contestant: Contestant, data: InspectionSet, weights: Path, folder: Path) -> str:
    """A row of the table."""
    learned, judged = laid_out(data.train, folder / "learned"), laid_out(data.test, folder / "judged")
    found = []
    for method in METHODS:
        scores = folder / f"{method}.npy"
        folders = {"learned": str(learned), "judged": str(judged)}
        contestant.do("judge", method=method, weights=str(weights), scores=str(scores), **folders)
        found.append(image_auroc(data.defective, np.load(scores)))
    return f"| {data.name} | {' | '.join(f'{one:.3f}' for one in found)} |"


def main(
    folders: Annotated[list[str], typer.Argument(help="Folders, or elpv-mono, elpv-poly.")],
    seed: Annotated[int, typer.Option(help="Of the split of the solar cells.")] = 0,
    python: Annotated[Path, typer.Option(help="Python of anomalib's environment.")] = Path(
        "var/bench/anomalib/bin/python"
    ),
) -> None:
    """Print the table."""
    typer.echo(f"{describe_machine('cpu').summary}\n\n| data | {' | '.join(METHODS)} |\n| --- | ---: | ---: |")
    with tempfile.TemporaryDirectory(prefix="anomalib-") as name:
        scratch = Path(name)
        weights = scratch / "weights.safetensors"
        named = load_backbone(FeaturesConfig()).network.state_dict()
        save_file({name.removeprefix(OURS): tensor for name, tensor in named.items() if OURS in name}, weights)
        command = [str(python.absolute()), str(HERE / "contestant_anomalib.py")]
        with Contestant(ANOMALIB, command, usable_cores(), LOG) as contestant:
            for number, folder in enumerate(folders):
                data = solar_cells(folder, seed) if folder.startswith("elpv") else read_folder(Path(folder))
                typer.echo(measure(contestant, data, weights, scratch / str(number)))


if __name__ == "__main__":
    typer.run(main)
