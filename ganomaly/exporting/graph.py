"""A detector over features as one module: camera pixels in, verdict, scores and heat map out."""

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the name everybody uses
from torch import Tensor, nn

from ganomaly.detector import Detector
from ganomaly.exporting.camera import GateGraph, RecipeGraph, full_range
from ganomaly.features.vectors import place_vectors
from ganomaly.judges.features import FeatureJudge
from ganomaly.networks.feature_ganomaly import FeatureGANomaly
from ganomaly.scoring.alarms import FIELD_PX, NOT_JUDGED, ROUNDING
from ganomaly.scoring.scores import FittedScores, FoldScores, one_score, with_drawn

VERDICTS = ("ok", "flagged", *GateGraph.REASONS)
"""By the number that a graph gives: from 2 on the reason why an image is unusable."""
INPUT, OUTPUTS = "pixels", ("verdict", "raw_score", "normalised_score", "p_value", "heat_map")
ROUNDED = 1e-5
"""Share of the limit that rounding may add: the calibration image that sets the limit stays good."""


class DetectorGraph(nn.Module):
    """A detector as one module, for camera images of one size.

    Args:
        detector: a calibrated one that looks at features and aligns nothing.
        height_px: of the camera image.
        width_px: of the camera image.
        white: its highest value, 255 or 65535.
    """

    def __init__(self, detector: Detector, height_px: int, width_px: int, white: int) -> None:
        super().__init__()
        judge, calibration, heat = detector.judge, detector.calibrated, detector.heat
        assert isinstance(judge, FeatureJudge)
        assert heat is not None
        self._recipe, self._white = detector.config.recipe, white
        self.gate = GateGraph(detector.config.quality, height_px, width_px, white)
        self.recipe = RecipeGraph(detector.config.recipe, height_px, width_px, white)
        self.judge = JudgeGraph(judge)
        self._limit, self._lowest, self._heat_limit = calibration.limit, calibration.lowest, heat.limit
        self._span = max(self._limit - self._lowest, float(np.spacing(abs(self._limit))))
        self.register_buffer("calibration", torch.from_numpy(calibration.scores_n).float())

    def forward(self, pixels_hwc: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Judge pixels (H, W, 3) RGB in [0, white], float32: the place in `VERDICTS` and what `OUTPUTS` names.

        Of an unusable image the scores mean nothing.
        """
        pixels_hwc = full_range(pixels_hwc, self._recipe, self._white)
        fault = self.gate(pixels_hwc)
        raw, map_hw = self.judge(self.recipe(pixels_hwc))
        calibration_n = self.get_buffer("calibration")
        higher = (calibration_n * (1 + ROUNDED) >= raw).float().sum()
        excess = (raw - self._lowest).clamp(min=0)
        flagged = 1 - (raw <= self._limit * (1 + ROUNDED)).long()  # what is not a number is flagged
        verdict = torch.where(fault > 0, fault + 1, flagged)
        p_value = (1 + higher) / (len(calibration_n) + 1)
        return verdict, raw, excess / (excess + self._span), p_value, (map_hw / self._heat_limit).clamp(min=0)


class JudgeGraph(nn.Module):
    """The raw score and the map of one prepared image.

    Args:
        judge: a fitted one.
    """

    def __init__(self, judge: FeatureJudge) -> None:
        super().__init__()
        self.seeing = judge.extractor.seeing
        self.network: FeatureGANomaly | None = judge.network
        self._fitted: tuple[FittedScores, ...] = judge.fitted
        self._is_partial, self._is_cross_fitted = judge.vectors.places is not None, judge.folds is not None
        self.register_buffer("places", judge.vectors.places)
        self.register_buffer("fold_scores", None if judge.folds is None else judge.folds.score_n.float())
        self.register_buffer("fold_fits", None if judge.folds is None else judge.folds.fit_n)

    def forward(self, pixels_1chw: Tensor) -> tuple[Tensor, Tensor]:
        """Judge grey levels (1, 3, H, W): raw score () and map (h, w)."""
        found, n_logits = self.seeing(pixels_1chw), len(self.seeing.discriminators)
        maps, logits = found[: len(found) - n_logits], found[len(found) - n_logits :]
        vectors_1lk, grid = place_vectors(maps)
        logits_1ld = [one.flatten(1)[..., None] for one in logits]
        places, rough_1lg = self.get_buffer("places") if self._is_partial else None, _roughness(pixels_1chw, grid)
        if places is not None:
            rough_1lg = rough_1lg * places.flatten()[None, :, None]
            logits_1ld = [torch.where(places.flatten()[None, :, None] == 0, NOT_JUDGED, one) for one in logits_1ld]
        both = torch.cat([vectors_1lk, rough_1lg, *logits_1ld], dim=2).half().float()
        heats, raws = [], []
        for fit in self._fitted:
            map_1hw = torch.stack(list(fit.maps(both, self.network).values())).mean(0)
            map_1hw = map_1hw if places is None else map_1hw * places
            drawn_1hw = fit.drawn_deviations(both, grid)
            heats.append(with_drawn(map_1hw, drawn_1hw))
            raws.append(one_score(map_1hw, fit.deviations(both), drawn_1hw))
        score_1 = raws[0]
        if self._is_cross_fitted:
            folds = FoldScores(self.get_buffer("fold_scores"), self.get_buffer("fold_fits"))
            score_1 = folds.joined(torch.stack(raws))
        return F.softplus(score_1)[0], torch.stack(heats).mean(0)[0]


def _roughness(pixels_1chw: Tensor, grid: tuple[int, int]) -> Tensor:
    """`ganomaly.scoring.alarms.roughness` as tensors, (1, L, G)."""
    grey = pixels_1chw.mean(1, keepdim=True)
    mean, square = F.avg_pool2d(grey, FIELD_PX), F.avg_pool2d(grey.square(), FIELD_PX)
    deviation = ((square - mean.square()).clamp(min=0) + ROUNDING).sqrt()
    height, width = grid
    rows, columns = deviation.shape[2] // height, deviation.shape[3] // width
    fields = deviation.reshape(height, rows, width, columns).permute(0, 2, 1, 3)
    return fields.reshape(1, height * width, rows * columns)


def unfit_for_export(detector: Detector) -> str | None:
    """The reason why a detector cannot be a graph, with the way out, for people; None if it can."""
    if detector.config.input != "features":
        return 'it looks at pixels; serve it with MLflow, or train one with input = "features"'
    recipe = detector.config.recipe
    if recipe.reference is not None:
        return (
            f"it brings parts into one frame (recipe.align = {recipe.align!r}), which no graph can; serve it with "
            'MLflow, or train one with recipe.align = "none"'
        )
    return None
