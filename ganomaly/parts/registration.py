"""Moves small grey images onto each other (Lucas and Kanade 1981): shift, turn and growth within small bounds."""

import cv2
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
MARGIN = 0.09
"""Share of a side that is not compared: it comes and goes with shift and crop."""
REACH = 0.08
"""Largest shift as a fraction of the side; growth and turn move the middle of a border by at most half of it."""
STEPS = 4
DAMPING = 0.01
"""Directions in which an image has hardly any structure move it nowhere."""
LOWEST_CONTRAST = 0.3


def inner_of(views_kss: Floats) -> Floats:
    """The middle of each image, mean 0 and length 1 (0 for an image of one grey level): float32 (K, F)."""
    margin = max(2, round(MARGIN * views_kss.shape[1]))
    inner = views_kss[:, margin:-margin, margin:-margin].reshape(len(views_kss), -1)
    return unit(inner - inner.mean(axis=1, keepdims=True))


def unit(vectors: Floats) -> Floats:
    """Rows of length 1; 0 for a row of next to nothing."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit: Floats = np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 1e-6)
    return unit


def limits_of(side: int) -> Floats:
    """The bounds of shift x, shift y, growth and turn, in pixels."""
    return np.array([REACH, REACH, REACH / 2, REACH / 2], np.float32) * side


def warp(views_kss: Floats, warps_k4: Floats) -> Floats:
    """Move images by shift x, shift y, growth and turn, all in pixels (the last two: of the middle of a border)."""
    side = views_kss.shape[1]
    middle, half = (side - 1) / 2, side / 2
    moved = np.empty_like(views_kss)
    for view, (right, down, growth, turn), target in zip(views_kss, warps_k4.tolist(), moved, strict=True):
        a, b = 1 + growth / half, turn / half
        matrix = np.array([[a, -b, right + middle * (1 - a + b)], [b, a, down + middle * (1 - a - b)]])
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        cv2.warpAffine(view, matrix, (side, side), dst=target, flags=flags, borderMode=cv2.BORDER_REPLICATE)
    return moved


def _steepest(targets_kss: Floats) -> tuple[Floats, Floats]:
    """For targets (K, s, s): their inner vectors (K, F) and the matrices (K, 4, F) from an error to a step."""
    side = targets_kss.shape[1]
    margin = max(2, round(MARGIN * side))
    inner = targets_kss[:, margin:-margin, margin:-margin]
    deviation = np.maximum(inner.std(axis=(1, 2), keepdims=True), 1e-6)
    right = np.gradient(targets_kss / deviation, axis=2)[:, margin:-margin, margin:-margin]
    down = np.gradient(targets_kss / deviation, axis=1)[:, margin:-margin, margin:-margin]
    y, x = (np.mgrid[margin : side - margin, margin : side - margin].astype(np.float32) - (side - 1) / 2) / (side / 2)
    jacobian = np.stack([right, down, right * x + down * y, down * x - right * y], axis=1)
    jacobian = jacobian.reshape(len(targets_kss), 4, -1) / np.sqrt(np.float32(jacobian[0, 0].size))
    hessian = jacobian @ jacobian.transpose(0, 2, 1) + DAMPING * np.eye(4, dtype=np.float32)
    return inner_of(targets_kss), np.linalg.inv(hessian) @ jacobian


def register(views_kss: Floats, targets_kss: Floats, warps_k4: Floats, limits_4: Floats) -> Floats:
    """Warps that move the views onto the targets (K or 1, s, s), beginning with those given: float32 (K, 4)."""
    goal, steps = _steepest(targets_kss)
    for _ in range(STEPS):
        moved = inner_of(warp(views_kss, warps_k4))
        contrast = (moved * goal).sum(axis=1, keepdims=True)
        error = moved - contrast * goal
        warps_k4 = warps_k4 - (steps @ error[:, :, None])[:, :, 0] / np.maximum(contrast, LOWEST_CONTRAST)
        warps_k4 = np.clip(warps_k4, -limits_4, limits_4)
    return warps_k4


def standard(views_kss: Floats) -> Floats:
    """Images of mean 0 and deviation 1."""
    centred = views_kss - views_kss.mean(axis=(1, 2), keepdims=True)
    standard: Floats = centred / np.maximum(centred.std(axis=(1, 2), keepdims=True), 1e-6)
    return standard
