"""OpenCV's work on the rows of an image as sums: a graph has no OpenCV, but it can add and multiply."""

from collections.abc import Callable

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ganomaly.images.pixels import resized

Floats = NDArray[np.float32]


class Resizing(nn.Module):
    """Stretches the rows of an image as a recipe does, each from the few rows that it is a mean of.

    Args:
        n: rows of the image.
        wanted: rows that it gets.
    """

    def __init__(self, n: int, wanted: int) -> None:
        super().__init__()
        matrix_mn = resized(np.eye(n, dtype=np.float32), wanted, n)
        most = int((matrix_mn != 0).sum(1).max())
        index_mt = np.argsort(matrix_mn == 0, axis=1, kind="stable")[:, :most]
        self.register_buffer("index_tm", torch.from_numpy(index_mt.T.copy()))
        self.register_buffer("weight_tm", torch.from_numpy(np.take_along_axis(matrix_mn, index_mt, axis=1).T.copy()))

    def forward(self, image: Tensor) -> Tensor:
        """Stretch an image (..., n, W) to (..., wanted, W)."""
        pairs = zip(self.get_buffer("index_tm"), self.get_buffer("weight_tm"), strict=True)
        return torch.stack([image.index_select(-2, index_m) * weight_m[:, None] for index_m, weight_m in pairs]).sum(0)


def filtering(n: int, operation: Callable[[Floats], Floats]) -> Tensor:
    """The matrix (n', n) of a linear operation of OpenCV that treats rows as it treats columns, such as a blur.

    Args:
        n: rows of the image.
        operation: takes an image (n, W) and gives one (n', W'); one whose rows are constant keeps them so.
    """
    width = 64  # constant along a row, whatever lies beyond the border
    columns = [operation(np.repeat(row[:, None], width, axis=1))[:, 0] for row in np.eye(n, dtype=np.float32)]
    return torch.from_numpy(np.stack(columns, axis=1))


def stretched(image: Tensor, rows: Resizing, columns: Resizing) -> Tensor:
    """An image (..., H, W) stretched both ways."""
    found: Tensor = columns(rows(image).transpose(-2, -1)).transpose(-2, -1)
    return found


def halving(n: int) -> Tensor:
    """The matrix (ceil(n / 2), n) of `cv2.pyrDown`."""
    return filtering(n, lambda image: np.asarray(cv2.pyrDown(image), np.float32))


def blurring(n: int, deviation: float) -> Tensor:
    """The matrix (n, n) of `cv2.GaussianBlur`."""
    return filtering(n, lambda image: np.asarray(cv2.GaussianBlur(image, (0, 0), deviation), np.float32))


def both_ways(image: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """An image (..., H, W) after one matrix (H', H) for its rows and another (W', W) for its columns."""
    return rows @ image @ columns.T
