"""Training of the networks on normal images only. Yields figures per epoch; logs, saves and prints nothing."""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from ganomaly.errors import TrainingDivergedError
from ganomaly.models.base import Losses, Model
from ganomaly.networks import initialise

DISCRIMINATOR_COLLAPSED = 1e-5


class TrainingConfig(BaseModel):
    """How long and how to train; the weights of the losses and Adam's settings are the paper's (section 4.2)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    epochs: int = Field(15, ge=1, le=10_000, description="passes over the training images")
    batch_size: int = Field(64, ge=2, le=4096, description="images per step")
    learning_rate: float = Field(2e-4, gt=0, le=1, description="Adam's step size")
    beta1: float = Field(0.5, ge=0, lt=1, description="Adam's first decay")
    beta2: float = Field(0.999, ge=0, lt=1, description="Adam's second decay")
    weight_adversarial: float = Field(1.0, ge=0, description="w_adv of equation 5")
    weight_contextual: float = Field(
        50.0, ge=0, description="w_con of equation 5; weighs the reconstruction of an aae, too"
    )
    weight_encoder: float = Field(1.0, ge=0, description="w_enc of equation 5")
    seed: int = Field(0, ge=0, description="draws the weights, the order of images and the split by part")


@dataclass(frozen=True)
class EpochStats:
    """Means over one epoch; the terms of the generator's loss are unweighted, and 0 where the method has no such term.

    Everything but the discriminator counts as the generator here.
    """

    epoch: int
    epochs: int
    loss_generator: float
    loss_adversarial: float
    loss_contextual: float
    loss_encoder: float
    loss_discriminator: float
    discriminator_restarts: int
    images_per_s: float


def to_input(images_bhwc: NDArray[np.uint8] | Tensor, device: torch.device) -> Tensor:
    """Recipe output, uint8 (B, S, S, C), as network input: float32 (B, C, S, S) in [-1, 1], channels last."""
    images = torch.as_tensor(images_bhwc).to(device)
    return images.permute(0, 3, 1, 2).to(torch.float32).div_(127.5).sub_(1.0)


class Trainer:
    """A model's two players and their optimisers, stepped together."""

    def __init__(self, model: Model, config: TrainingConfig, rng: torch.Generator) -> None:
        self.model = model
        self.config = config
        self.rng = rng
        self.discriminator_restarts = 0
        betas = (config.beta1, config.beta2)
        self.generator_parameters, self.discriminator_parameters = model.players()
        self.optimiser_g = torch.optim.Adam(self.generator_parameters, config.learning_rate, betas)
        self.optimiser_d = torch.optim.Adam(self.discriminator_parameters, config.learning_rate, betas)

    def step(self, x_bchw: Tensor) -> Tensor:
        """Update both players on one batch, each by the gradient of its own loss.

        Returns:
            The losses (5,): generator, adversarial, contextual, encoder, discriminator; detached, on the device.
        """
        losses = self.model.losses(x_bchw, self.rng)
        loss_g, loss_d = self._generator_loss(losses), losses.discriminator
        gradients_g = torch.autograd.grad(loss_g, self.generator_parameters, retain_graph=True)
        gradients_d = torch.autograd.grad(loss_d, self.discriminator_parameters)
        self._update(self.optimiser_g, self.generator_parameters, gradients_g)
        self._update(self.optimiser_d, self.discriminator_parameters, gradients_d)
        if loss_d.item() < DISCRIMINATOR_COLLAPSED:
            initialise(self.model.discriminator, self.rng)
            self.discriminator_restarts += 1
        none = torch.zeros_like(loss_d)
        terms = (none if term is None else term for term in (losses.contextual, losses.encoder))
        return torch.stack([loss_g, losses.adversarial, *terms, loss_d]).detach()

    def _generator_loss(self, losses: Losses) -> Tensor:
        loss = self.config.weight_adversarial * losses.adversarial
        if losses.contextual is not None:
            loss = loss + self.config.weight_contextual * losses.contextual
        if losses.encoder is not None:
            loss = loss + self.config.weight_encoder * losses.encoder
        return loss

    @staticmethod
    def _update(
        optimiser: torch.optim.Optimizer, parameters: list[torch.nn.Parameter], gradients: tuple[Tensor, ...]
    ) -> None:
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)


def train(
    model: Model, images_nhwc: NDArray[np.uint8], config: TrainingConfig, rng: torch.Generator
) -> Iterator[EpochStats]:
    """Train a model in place, one epoch for each value that is drawn from the iterator.

    Args:
        model: on the device to train on.
        images_nhwc: the recipe's output for normal images, uint8 (N, S, S, C).
        config: epochs, batch size and weights.
        rng: a CPU generator; with the same state, images and machine the weights come out bit by bit the same.

    Yields:
        The epoch's mean losses. The model is left in ``eval()`` mode after each epoch.

    Raises:
        TrainingDivergedError: if a loss or a weight is infinite or not a number; names epoch and loss. The model has
            the weights of the epoch before, in ``eval()`` mode.
    """
    device = next(model.parameters()).device
    trainer = Trainer(model, config, rng)
    n_images = len(images_nhwc)
    n_batches = max(1, round(n_images / config.batch_size))
    for epoch in range(1, config.epochs + 1):
        last_good = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        model.train()
        started = time.perf_counter()
        order = torch.randperm(n_images, generator=rng).numpy()
        losses = [
            trainer.step(to_input(images_nhwc[np.sort(batch)], device)) for batch in np.array_split(order, n_batches)
        ]
        model.eval()
        loss_g, adversarial, contextual, encoder, loss_d = torch.stack(losses).mean(0).tolist()
        seconds = time.perf_counter() - started
        stats = EpochStats(
            epoch,
            config.epochs,
            loss_generator=loss_g,
            loss_adversarial=adversarial,
            loss_contextual=contextual,
            loss_encoder=encoder,
            loss_discriminator=loss_d,
            discriminator_restarts=trainer.discriminator_restarts,
            images_per_s=n_images / seconds,
        )
        if (fault := _find_fault(stats, model)) is not None:
            model.load_state_dict(last_good)
            kept = f"of epoch {epoch - 1}" if epoch > 1 else "drawn at the start"
            raise TrainingDivergedError(
                f"training diverged in epoch {epoch} of {config.epochs}: {fault}; try a smaller training.learning_rate "
                f"(the weights {kept} are kept)"
            )
        yield stats


def _find_fault(stats: EpochStats, model: Model) -> str | None:
    """The first loss or weight that is infinite or not a number, None if there is none."""
    for name in ("loss_adversarial", "loss_contextual", "loss_encoder", "loss_discriminator"):
        if not math.isfinite(value := getattr(stats, name)):
            return f"{name} = {value}"
    for name, tensor in model.state_dict().items():
        if not torch.isfinite(tensor).all():
            return f"the losses are finite, but after them {name} is not"
    return None
