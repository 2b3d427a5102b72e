"""Writes a detector as a folder that judges without torch and this package, and refuses one that judges otherwise."""

import json
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from ganomaly.detector import Detector
from ganomaly.errors import ConfigError, ExportError, ImageError
from ganomaly.exporting.graph import INPUT, OUTPUTS, VERDICTS, DetectorGraph, unfit_for_export
from ganomaly.exporting.onnx_file import write_onnx
from ganomaly.image_score import ImageScore
from ganomaly.images.preparation import read_image
from ganomaly.images.recipe import Recipe

Format = Literal["onnx", "openvino"]
FORMATS: tuple[Format, ...] = get_args(Format)
ABOUT = "export.json"
TOLERANCE = 5e-3
"""By how much normalised scores may differ, whose limit is 0.5: rounding of a few grey values."""
FEWEST = 20
"""Images that a comparison takes."""

Run = Callable[[NDArray[np.float32]], Sequence[Any]]
"""Camera pixels (H, W, 3) to what `OUTPUTS` names."""


@dataclass(frozen=True)
class Difference:
    """An image that the export judges otherwise.

    Attributes:
        image: its name.
        verdict: what the detector says, the reason of an unusable image included.
        exported_verdict: what the export says.
        normalised_score: what the detector says; None for an unusable image.
        exported_normalised_score: what the export says.
    """

    image: str
    verdict: str
    exported_verdict: str
    normalised_score: float | None
    exported_normalised_score: float

    @property
    def at_the_limit(self) -> bool:
        """True where rounding alone may have changed the verdict."""
        return self.normalised_score is not None and abs(self.normalised_score - 0.5) <= TOLERANCE


@dataclass(frozen=True)
class Comparison:
    """What a detector and its export say of the same images.

    Attributes:
        images: that both looked at.
        scored: of them, those that both found usable.
        passed_over: images that could not be decoded, or have another size or depth than most.
        largest: difference of normalised scores of usable images, in [0, 1).
        changed: the images whose verdict is another one.
    """

    images: int
    scored: int
    passed_over: int
    largest: float
    changed: tuple[Difference, ...]

    @property
    def fault(self) -> str | None:
        """Why the export must not be used, for people; None if it may."""
        if self.scored < FEWEST and not self.changed:
            return (
                f"only {self.scored} of {self.images} images are usable, at least {FEWEST} are needed to compare "
                "scores: name more good and defective images of the line's camera"
            )
        if not self.largest <= TOLERANCE:
            return (
                f"the export judges otherwise: normalised scores differ by up to {self.largest:.4f}, allowed is "
                f"{TOLERANCE:g}"
            )
        far = [one for one in self.changed if not one.at_the_limit]
        if not far:
            return None
        named = "; ".join(f"{one.image} is {one.verdict}, exported {one.exported_verdict}" for one in far[:3])
        return f"the export judges otherwise: {len(far)} of {self.images} verdicts change: {named}"


def export_detector(detector: Detector, images: Sequence[Path], folder: Path, kind: Format = "onnx") -> Comparison:
    """Write a folder with the graph, two programs that run it and what was compared.

    Args:
        detector: a calibrated one.
        images: files of the line's camera, all of one size; the more of them defective, the better the comparison.
        folder: to write; it must not exist.
        kind: for which runtime.

    Raises:
        ConfigError: if a package is missing, or a setting of the detector cannot be put into a graph.
        ExportError: if the folder exists, the images do not serve, or the export judges otherwise; nothing is left.
    """
    if folder.exists():
        raise ExportError(f"{folder}: exists; name a folder that does not, or remove it")
    if (fault := unfit_for_export(detector)) is not None:
        raise ConfigError(f"this detector cannot be exported: {fault}")
    camera = _of_one_camera(detector, images)
    judged = detector.score(camera.paths)
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        _write_graph(detector, camera, unfinished, kind)
        comparison = _compare(camera, judged, runtime_of(unfinished))
        if comparison.fault is not None:
            raise ExportError(f"{folder}: not written: {comparison.fault}")
        _write_rest(detector, camera, comparison, unfinished, kind)
        unfinished.chmod(0o755)
        unfinished.rename(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return comparison


@dataclass(frozen=True)
class _Camera:
    """Files of images of one size and depth."""

    paths: list[Path]
    shape: tuple[int, int]
    white: int
    passed_over: int
    as_stored: Recipe

    def pixels(self, path: Path) -> NDArray[np.float32]:
        """Camera pixels (H, W, 3) RGB in [0, white]."""
        image = read_image(path, self.as_stored)
        colour = image if image.ndim == 3 else np.repeat(image[:, :, None], 3, axis=2)
        return np.ascontiguousarray(colour, dtype=np.float32)


def _of_one_camera(detector: Detector, images: Sequence[Path]) -> _Camera:
    as_stored = Recipe(max_megapixels=detector.config.recipe.max_megapixels)
    kinds: dict[tuple[tuple[int, int], int], list[Path]] = {}
    for path in images:
        try:
            image = read_image(path, as_stored)
        except ImageError:
            continue
        kinds.setdefault(((image.shape[0], image.shape[1]), int(np.iinfo(image.dtype).max)), []).append(path)
    if not kinds:
        raise ExportError(f"none of {len(images)} images can be decoded: name some of the line's camera")
    (shape, white), paths = max(kinds.items(), key=lambda item: len(item[1]))
    if len(paths) < FEWEST:
        sizes = Counter({f"{w} x {h} px": len(found) for ((h, w), _), found in kinds.items()})
        listed = ", ".join(f"{count} of {size}" for size, count in sizes.most_common(5))
        raise ExportError(
            f"too few images of one size to compare with: {listed}; an export is for one size, name at least {FEWEST} "
            "images of the line's camera"
        )
    if min(shape) < detector.config.quality.min_side_px:
        raise ExportError(f"the images have {shape[1]} x {shape[0]} px, too small for the detector's quality gate")
    detector.config.recipe.crop(np.zeros(shape, np.uint8))  # an error of its own where the region lies outside
    return _Camera(paths, shape, white, len(images) - len(paths), as_stored)


def _write_graph(detector: Detector, camera: _Camera, folder: Path, kind: Format) -> None:
    target = folder / "model.onnx"
    write_onnx(DetectorGraph(detector, *camera.shape, camera.white), camera.shape, target)
    if kind == "openvino":
        openvino = _openvino()
        openvino.save_model(openvino.convert_model(target), folder / "model.xml", compress_to_fp16=False)
        target.unlink()


def runtime_of(folder: Path) -> Run:
    """The graph of a folder as its program runs it."""
    if (folder / "model.xml").exists():
        model = _openvino().compile_model(folder / "model.xml", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        return lambda pixels: list(model([pixels]).to_tuple())
    import onnxruntime  # noqa: PLC0415 - of the extra `features`

    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
    return lambda pixels: session.run(None, {INPUT: pixels})


def _openvino() -> Any:
    try:
        import openvino  # noqa: PLC0415 - of the extra `openvino`
    except ModuleNotFoundError:
        raise ConfigError("openvino is not installed: pip install 'ganomaly-inspection[openvino]'") from None
    return openvino


def _compare(camera: _Camera, judged: Sequence[ImageScore], run: Run) -> Comparison:
    apart, changed = [0.0], []
    for path, score in zip(camera.paths, judged, strict=True):
        verdict, _, normalised, _, _ = run(camera.pixels(path))
        exported, found = VERDICTS[int(verdict)], float(normalised)
        if score.normalised is not None and exported in ("ok", "flagged"):
            apart.append(abs(found - score.normalised))
        if exported != (said := score.reason or score.verdict):
            changed.append(Difference(path.as_posix(), said, exported, score.normalised, found))
    largest = float(np.max(apart))  # what is not a number is the largest
    return Comparison(len(camera.paths), len(apart) - 1, camera.passed_over, largest, tuple(changed))


def _write_rest(detector: Detector, camera: _Camera, comparison: Comparison, folder: Path, kind: Format) -> None:
    calibration = detector.calibrated
    about = {
        "format": kind,
        "input": {
            "name": INPUT,
            "shape": [*camera.shape, 3],
            "type": "float32",
            "colours": "RGB",
            "white": camera.white,
        },
        "outputs": list(OUTPUTS),
        "verdicts": list(VERDICTS),
        "promise": calibration.promise,
        "limit": calibration.limit,
        "recipe": detector.config.recipe.model_dump(mode="json"),
        "quality": detector.config.quality.model_dump(mode="json"),
        "calibration_id": calibration.id,
        "snapshot_id": detector.snapshot_id,
        "judge": detector.judge.facts(),
        "compared": asdict(comparison),
    }
    (folder / ABOUT).write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    for name in ("judge.py", "judge.cpp"):
        program = files("ganomaly.exporting").joinpath("programs", name).read_text(encoding="utf-8")
        (folder / name).write_text(program.replace("WHITE = 255;", f"WHITE = {camera.white};"), encoding="utf-8")
