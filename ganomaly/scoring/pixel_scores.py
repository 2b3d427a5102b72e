"""Anomaly scores: from what the trained networks yield for an image to one number, higher for less normal.

`paper_score` is the paper's latent distance (equation 6). `GaussianScore` is a Gaussian fitted on normal images over
everything the generator says about an image, which weighs each direction by how much it varies among normal images
instead of averaging noise and signal alike. The default is the fusion of two heads: `ganomaly.scoring.local_gaussian`
(or, on a surface, `ganomaly.scoring.surface_patches` alone), `ganomaly.scoring.global_neighbours`,
`ganomaly.scoring.fusion`.
"""

from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the name everybody uses
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

RESIDUAL_GRID = 8


class ScoreConfig(BaseModel):
    """Which score a detector flags with."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: Literal["fused", "local", "global", "gaussian", "paper"] = Field(
        "fused",
        description="fused: the more alarmed of two heads; local: every place against that place on normal images, on "
        "a surface every patch against normal ones from anywhere, which there is fused, too; global: the whole against "
        "the nearest normal images; gaussian: Mahalanobis distance over z, z - z_hat and the residual; "
        "paper: mean |z - z_hat|, or the score of the comparator's paper",
    )


def paper_score(z_bd: Tensor, z_hat_bd: Tensor) -> Tensor:
    """A(x) = ||z - z_hat||_1 / D (equation 6), (B,): latent vectors (B, D) in, the mean over D out."""
    return (z_bd - z_hat_bd).abs().mean(1)


def residual_map(x_bchw: Tensor, x_hat_bchw: Tensor) -> Tensor:
    """|x - x_hat| averaged over the channels: (B, S, S) in [0, 2]."""
    return (x_bchw - x_hat_bchw).abs().mean(1)


def describe(x_bchw: Tensor, x_hat_bchw: Tensor, z_bd: Tensor, z_hat_bd: Tensor) -> Tensor:
    """Everything the Gaussian score looks at, (B, 2 D + 64): z, z - z_hat, the mean residual in 8 x 8 fields."""
    return torch.cat([z_bd, z_bd - z_hat_bd, mean_residual(x_bchw, x_hat_bchw)], dim=1)


def mean_residual(x_bchw: Tensor, x_hat_bchw: Tensor) -> Tensor:
    """|x - x_hat| averaged in 8 x 8 fields: (B, 64) in [0, 2]."""
    return F.adaptive_avg_pool2d(residual_map(x_bchw, x_hat_bchw)[:, None], RESIDUAL_GRID).flatten(1)


@dataclass(frozen=True)
class GaussianScore:
    """A Gaussian over feature vectors of normal images, with Ledoit-Wolf shrinkage of the standardised covariance.

    Attributes:
        mean_f: float64 (F,), mean of the features.
        scale_f: float64 (F,), their standard deviation.
        precision_root_ff: float64 (F, F), R with R^T R = inverse covariance of the standardised features.
        shrinkage: weight in [0, 1] that Ledoit-Wolf gave to the identity.
    """

    mean_f: NDArray[np.float64]
    scale_f: NDArray[np.float64]
    precision_root_ff: NDArray[np.float64]
    shrinkage: float

    @classmethod
    def fit(cls, features_nf: NDArray[np.floating]) -> Self:
        """Fit on the features (N, F) of normal images, N from 2 up.

        Raises:
            ValueError: with fewer than two images.
        """
        if len(features_nf) < 2:
            raise ValueError(f"the score's statistics need at least 2 normal images, got {len(features_nf)}")
        from sklearn.covariance import ledoit_wolf  # type: ignore[import-untyped]  # noqa: PLC0415 - slow to import

        features = features_nf.astype(np.float64)
        mean = features.mean(0)
        scale = np.maximum(features.std(0), 1e-8)
        covariance, shrinkage = ledoit_wolf((features - mean) / scale, assume_centered=True)
        root = np.linalg.inv(_cholesky(covariance))
        return cls(mean, scale, root, float(shrinkage))

    def score(self, features_nf: NDArray[np.floating]) -> NDArray[np.float64]:
        """Mahalanobis distance over sqrt(F), (N,): about 1 for an image like those fitted on."""
        standardised = (features_nf.astype(np.float64) - self.mean_f) / self.scale_f
        # einsum: unlike a BLAS product it sums one row the same way whatever the number of rows
        whitened = np.einsum("nf,gf->ng", standardised, self.precision_root_ff)
        distance: NDArray[np.float64] = np.sqrt(np.einsum("ng,ng->n", whitened, whitened) / features_nf.shape[1])
        return distance


def _cholesky(covariance_ff: NDArray[Any]) -> NDArray[Any]:
    """L with L L^T = the covariance, with a little noise added where images all alike leave directions without any."""
    try:
        return np.linalg.cholesky(covariance_ff)
    except np.linalg.LinAlgError:
        return np.linalg.cholesky(covariance_ff + 1e-3 * np.eye(len(covariance_ff)))
