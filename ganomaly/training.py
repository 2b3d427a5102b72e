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
from ganomaly.losses import adversarial_loss, contextual_loss, discriminator_loss, encoder_loss
from ganomaly.networks import Discriminator, Generator, initialise

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
    weight_contextual: float = Field(50.0, ge=0, description="w_con of equation 5")
    weight_encoder: float = Field(1.0, ge=0, description="w_enc of equation 5")
    seed: int = Field(0, ge=0, description="draws the weights, the order of images and the split by part")


@dataclass(frozen=True)
class EpochStats:
    """Means over one epoch; the losses are unweighted."""

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
    """One generator, one discriminator and their optimisers, stepped together."""

    def __init__(
        self,
        generator: Generator,
        discriminator: Discriminator,
        config: TrainingConfig,
        rng: torch.Generator,
    ) -> None:
        self.generator = generator
        self.discriminator = discriminator
        self.config = config
        self.rng = rng
        self.discriminator_restarts = 0
        betas = (config.beta1, config.beta2)
        self.generator_parameters = list(generator.parameters())
        self.discriminator_parameters = list(discriminator.parameters())
        self.optimiser_g = torch.optim.Adam(self.generator_parameters, config.learning_rate, betas)
        self.optimiser_d = torch.optim.Adam(self.discriminator_parameters, config.learning_rate, betas)

    def step(self, x_bchw: Tensor) -> Tensor:
        """Update both networks on one batch.

        The discriminator sees the real and the reconstructed images once each: both losses share the pass, and each
        gradient is taken for its own network's weights only.

        Returns:
            The losses (5,): generator, adversarial, contextual, encoder, discriminator; detached, on the device.
        """
        config = self.config
        fake = self.generator(x_bchw)
        real_judged = self.discriminator(x_bchw)
        fake_judged = self.discriminator(fake.x_hat_bchw)
        adversarial = adversarial_loss(real_judged.features_bchw.detach(), fake_judged.features_bchw)
        contextual = contextual_loss(x_bchw, fake.x_hat_bchw)
        encoder = encoder_loss(fake.z_bd, fake.z_hat_bd)
        loss_g = (
            config.weight_adversarial * adversarial
            + config.weight_contextual * contextual
            + config.weight_encoder * encoder
        )
        loss_d = discriminator_loss(real_judged.logits_b, fake_judged.logits_b)
        gradients_g = torch.autograd.grad(loss_g, self.generator_parameters, retain_graph=True)
        gradients_d = torch.autograd.grad(loss_d, self.discriminator_parameters)
        self._update(self.optimiser_g, self.generator_parameters, gradients_g)
        self._update(self.optimiser_d, self.discriminator_parameters, gradients_d)
        if loss_d.item() < DISCRIMINATOR_COLLAPSED:
            initialise(self.discriminator, self.rng)
            self.discriminator_restarts += 1
        return torch.stack([loss_g, adversarial, contextual, encoder, loss_d]).detach()

    @staticmethod
    def _update(
        optimiser: torch.optim.Optimizer, parameters: list[torch.nn.Parameter], gradients: tuple[Tensor, ...]
    ) -> None:
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)


def train(
    generator: Generator,
    discriminator: Discriminator,
    images_nhwc: NDArray[np.uint8],
    config: TrainingConfig,
    rng: torch.Generator,
) -> Iterator[EpochStats]:
    """Train both networks in place, one epoch for each value that is drawn from the iterator.

    Args:
        generator: G_E, G_D and E, on the device to train on.
        discriminator: D, on the same device.
        images_nhwc: the recipe's output for normal images, uint8 (N, S, S, C).
        config: epochs, batch size and weights.
        rng: a CPU generator; with the same state, images and machine the weights come out bit by bit the same.

    Yields:
        The epoch's mean losses. Both networks are left in ``eval()`` mode after each epoch.

    Raises:
        TrainingDivergedError: if a loss is infinite or not a number; names epoch and loss.
    """
    device = next(generator.parameters()).device
    trainer = Trainer(generator, discriminator, config, rng)
    n_images = len(images_nhwc)
    n_batches = max(1, round(n_images / config.batch_size))
    for epoch in range(1, config.epochs + 1):
        generator.train()
        discriminator.train()
        started = time.perf_counter()
        order = torch.randperm(n_images, generator=rng).numpy()
        losses = [
            trainer.step(to_input(images_nhwc[np.sort(batch)], device)) for batch in np.array_split(order, n_batches)
        ]
        generator.eval()
        discriminator.eval()
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
        _check_finite(stats)
        yield stats


def _check_finite(stats: EpochStats) -> None:
    for name in ("loss_adversarial", "loss_contextual", "loss_encoder", "loss_discriminator"):
        value = getattr(stats, name)
        if not math.isfinite(value):
            raise TrainingDivergedError(
                f"training diverged in epoch {stats.epoch} of {stats.epochs}: {name} = {value}; "
                "try a smaller training.learning_rate"
            )
