"""What training and detector need of a method: the losses of one step, and what it says about an image."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal, NamedTuple

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from ganomaly.scoring.global_neighbours import GROUPS


class ModelConfig(BaseModel):
    """Which method, and the settings that only some methods have."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["ganomaly", "egbad", "anogan", "aae"] = Field(
        "ganomaly", description="the method; egbad, anogan and aae are there to compare with, each with its own score"
    )
    feature_weight: float = Field(
        0.1, ge=0, le=1, description="egbad, anogan: lambda, the weight of the feature distance in the score"
    )
    search_steps: int = Field(500, ge=1, le=100_000, description="anogan: steps of the search for z, per image")
    search_rate: float = Field(0.05, gt=0, le=10, description="anogan: Adam's step size in that search")


class Losses(NamedTuple):
    """The losses of one batch, each () and unweighted: what D minimises, and the terms of what all others minimise.

    A method leaves out the terms that it does not have.
    """

    discriminator: Tensor
    adversarial: Tensor
    contextual: Tensor | None = None
    encoder: Tensor | None = None


class Judgement(NamedTuple):
    """What a method says about B images.

    Attributes:
        score_b: (B,) from 0 up, the score of the method's paper; (0,) where it was not asked for.
        x_hat_bchw: (B, C, S, S) in [-1, 1], what the method makes of the images; (0, C, S, S) where nothing
            at all was asked for.
        features_bf: (B, F), what a Gaussian can be fitted on; F = 0 where the method's own score is all there is;
            (0, 0) where it was not asked for.
        local_views: what `ganomaly.scoring.local_gaussian` looks at, each (B, K, side, side); none where there is no
            such head.
        appearance: what `ganomaly.scoring.global_neighbours` compares images by, (B, F_g) by name; none where there is
            no such head.
    """

    score_b: Tensor
    x_hat_bchw: Tensor
    features_bf: Tensor
    local_views: tuple[Tensor, ...] = ()
    appearance: Mapping[str, Tensor] = MappingProxyType({})

    def some(self, rows: slice | Tensor) -> "Judgement":
        """The same of some of the images."""

        def some_of(column: Tensor) -> Tensor:
            return column[rows] if len(column) else column  # empty where it was not asked for

        return Judgement(
            some_of(self.score_b),
            some_of(self.x_hat_bchw),
            some_of(self.features_bf),
            tuple(some_of(view) for view in self.local_views),
            {name: some_of(group) for name, group in self.appearance.items()},
        )


class Wanted(NamedTuple):
    """What of a judgement somebody needs; networks that serve nothing else do not run.

    Attributes:
        second_pass: whether ``score_b`` and ``features_bf`` are.
        groups: which groups of ``appearance``.
        local_views: whether ``local_views`` are.
    """

    second_pass: bool = True
    groups: tuple[str, ...] = tuple(GROUPS)
    local_views: bool = True


EVERYTHING = Wanted()


class Trainable(nn.Module, ABC):
    """A discriminator, and all other networks, which play against it."""

    discriminator: nn.Module

    def players(self) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
        """The weights of all other networks, and those of the discriminator."""
        discriminator = list(self.discriminator.parameters())
        taken = {id(parameter) for parameter in discriminator}
        return [parameter for parameter in self.parameters() if id(parameter) not in taken], discriminator

    @abstractmethod
    def losses(self, x_bchw: Tensor, rng: torch.Generator) -> Losses:
        """The losses of one batch of normal images.

        Both players' losses share one pass: whoever takes the gradients takes each for its own player's weights only.

        Args:
            x_bchw: (B, C, S, S) in [-1, 1], on the networks' device.
            rng: a CPU generator, for methods that draw noise.
        """


class Model(Trainable):
    """A method over pixels."""

    @abstractmethod
    def judge(self, x_bchw: Tensor, wanted: Wanted = EVERYTHING) -> Judgement:
        """Judge images (B, C, S, S) in [-1, 1], each independently of the others in ``eval()`` mode.

        A method that has its own score only gives that, whatever is wanted.
        """


def weighted_distance(
    x_bchw: Tensor, x_hat_bchw: Tensor, f_bk: Tensor, f_hat_bk: Tensor, feature_weight: float
) -> Tensor:
    """(1 - lambda) ||x - x_hat||_1 + lambda ||f - f_hat||_1, (B,): sums, not means, or lambda would be another.

    AnoGAN's score (arXiv 1703.05921, equations 3 to 5 and section 2.3), which EGBAD takes over (arXiv 1802.06222,
    section 3).
    """
    residual_b = (x_bchw - x_hat_bchw).abs().flatten(1).sum(1)
    feature_b = (f_bk - f_hat_bk).abs().flatten(1).sum(1)
    return (1 - feature_weight) * residual_b + feature_weight * feature_b
