"""Training of the networks on normal images only. Yields figures per epoch; logs, saves and prints nothing."""

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from ganomaly.acceleration.precision import Precision, arithmetic
from ganomaly.errors import TrainingDivergedError
from ganomaly.networks.layers import initialise

DISCRIMINATOR_COLLAPSED = 1e-5


class TrainingConfig(BaseModel):
    """How long and how to train; the weights of the losses and Adam's settings are the paper's (section 4.2)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    epochs: int = Field(
        15, ge=1, le=10_000, description="passes over the training images; features: 320 images drawn from all"
    )
    batch_size: int = Field(64, ge=2, le=4096, description="images per step")
    learning_rate: float = Field(2e-4, gt=0, le=1, description="Adam's step size")
    beta1: float = Field(0.5, ge=0, lt=1, description="Adam's first decay")
    beta2: float = Field(0.999, ge=0, lt=1, description="Adam's second decay")
    weight_adversarial: float = Field(1.0, ge=0, description="w_adv of equation 5")
    weight_contextual: float = Field(50.0, ge=0, description="w_con of equation 5")
    weight_encoder: float = Field(1.0, ge=0, description="w_enc of equation 5")
    seed: int = Field(0, ge=0, description="draws the weights, the order of images and the split by part")


class Losses(NamedTuple):
    """The losses of one batch, each () and unweighted: what D minimises, and the terms of what all others minimise.

    A method leaves out the terms that it does not have.
    """

    discriminator: Tensor
    adversarial: Tensor
    contextual: Tensor | None = None
    encoder: Tensor | None = None


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
    """Recipe output, uint8 (B, S, S, C), as network input: float32 (B, C, S, S) in [-1, 1], channels last.

    A GPU gets the bytes from pinned memory while it works on what came before, and makes the numbers itself.
    """
    images = torch.as_tensor(images_bhwc)
    if device.type == "cuda" and images.device.type == "cpu":
        images = images.pin_memory()
    images = images.to(device, non_blocking=True)
    return images.permute(0, 3, 1, 2).to(torch.float32).div_(127.5).sub_(1.0)


class Images(Protocol):
    """Something that gives some of N images at a time."""

    def __len__(self) -> int: ...

    def __getitem__(self, which: NDArray[np.intp], /) -> NDArray[Any]: ...


AsInput = Callable[[NDArray[Any], torch.device], Tensor]
"""Some of the images, as they are kept, as a batch on the device."""


class _Fetched:
    """One number on its way from the device; only the work that it depends on is waited for."""

    def __init__(self) -> None:
        self._number: Tensor | None = None
        self._arrived: torch.cuda.Event | None = None

    def send(self, number: Tensor) -> None:
        self._number = number.to("cpu", non_blocking=True)
        if number.device.type == "cuda":
            self._arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._arrived.record()

    def receive(self) -> float | None:
        """The number that was sent last, once."""
        number, self._number = self._number, None
        if self._arrived is not None:
            self._arrived.synchronize()
        return None if number is None else number.item()


class Trainer:
    """A model's two players and their optimisers, stepped together.

    Each image goes through each network once. What a step learns about its losses stays on the device until the epoch
    ends, but for D's, which the next step asks for.
    """

    def __init__(self, model: Trainable, config: TrainingConfig, rng: torch.Generator, precision: Precision) -> None:
        self.model = model
        self.config = config
        self.rng = rng
        self.precision = precision
        self.discriminator_restarts = 0
        self._loss_before = _Fetched()
        self.generator_parameters, self.discriminator_parameters = model.players()
        self.optimiser_g = self._adam(self.generator_parameters)
        self.optimiser_d = self._adam(self.discriminator_parameters)

    def _adam(self, parameters: list[torch.nn.Parameter]) -> torch.optim.Adam:
        betas = (self.config.beta1, self.config.beta2)
        return torch.optim.Adam(parameters, self.config.learning_rate, betas, fused=True)

    def set_rate(self, factor: float) -> None:
        """Set Adam's step size for the steps to come, as a factor of the configured one."""
        for optimiser in (self.optimiser_g, self.optimiser_d):
            for group in optimiser.param_groups:
                group["lr"] = factor * self.config.learning_rate

    def step(self, x_bchw: Tensor) -> Tensor:
        """Update both players on one batch, each by the gradient of its own loss.

        Returns:
            The losses (5,): generator, adversarial, contextual, encoder, discriminator; detached, on the device.
        """
        self.restart_if_collapsed()
        with arithmetic(self.precision, x_bchw.device):
            losses = self.model.losses(x_bchw, self.rng)
        self._loss_before.send(losses.discriminator.detach())
        loss_g, loss_d = self._generator_loss(losses), losses.discriminator
        gradients_g = torch.autograd.grad(loss_g, self.generator_parameters, retain_graph=True)
        gradients_d = torch.autograd.grad(loss_d, self.discriminator_parameters)
        self._update(self.optimiser_g, self.generator_parameters, gradients_g)
        self._update(self.optimiser_d, self.discriminator_parameters, gradients_d)
        none = torch.zeros_like(loss_d)
        terms = (none if term is None else term for term in (losses.contextual, losses.encoder))
        return torch.stack([loss_g, losses.adversarial, *terms, loss_d]).detach()

    def restart_if_collapsed(self) -> None:
        """Draw D's weights anew if its loss on the batch before was next to nothing.

        Asked when the next step begins: a GPU knows the loss by then, and is still busy with the gradients.
        """
        loss_d = self._loss_before.receive()
        if loss_d is not None and loss_d < DISCRIMINATOR_COLLAPSED:
            initialise(self.model.discriminator, self.rng)
            self.discriminator_restarts += 1

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
            # the fused Adam walks through memory: a gradient in another layout would go to the wrong weights
            same_layout = gradient.stride() == parameter.stride()
            parameter.grad = gradient if same_layout else torch.empty_like(parameter).copy_(gradient)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)


def train(
    model: Trainable,
    images_nhwc: Images,
    config: TrainingConfig,
    rng: torch.Generator,
    precision: Precision,
    as_input: AsInput = to_input,
    rate: Callable[[float], float] = lambda done: 1.0,  # noqa: ARG005 - the same rate all through
) -> Iterator[EpochStats]:
    """Train a model in place, one epoch for each value that is drawn from the iterator.

    Args:
        model: on the device to train on.
        images_nhwc: the recipe's output for normal images, uint8 (N, S, S, C), or whatever `as_input` takes.
        config: epochs, batch size and weights.
        rng: a CPU generator; with the same state, images and machine the weights come out bit by bit the same.
        precision: of the products within the networks; the weights are float32 in any.
        as_input: makes the networks' input of some of the images.
        rate: Adam's step size as a factor of the configured one, by the share of the steps that are done.

    Yields:
        The epoch's mean losses. The model is left in ``eval()`` mode after each epoch.

    Raises:
        TrainingDivergedError: if a loss or a weight is infinite or not a number; names epoch and loss. The model has
            the weights of the epoch before, in ``eval()`` mode.
    """
    device = next(model.parameters()).device
    trainer = Trainer(model, config, rng, precision)
    n_images = len(images_nhwc)
    n_batches = max(1, round(n_images / config.batch_size))
    for epoch in range(1, config.epochs + 1):
        last_good = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        model.train()
        started = time.perf_counter()
        order = torch.randperm(n_images, generator=rng).numpy()
        losses = []
        for at, batch in enumerate(np.array_split(order, n_batches)):
            trainer.set_rate(rate((epoch - 1 + at / n_batches) / config.epochs))
            losses.append(trainer.step(as_input(images_nhwc[np.sort(batch)], device)))
        trainer.restart_if_collapsed()
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


def _find_fault(stats: EpochStats, model: Trainable) -> str | None:
    """The first loss or weight that is infinite or not a number, None if there is none."""
    for name in ("loss_adversarial", "loss_contextual", "loss_encoder", "loss_discriminator"):
        if not math.isfinite(value := getattr(stats, name)):
            return f"{name} = {value}"
    for name, tensor in model.state_dict().items():
        if not torch.isfinite(tensor).all():
            return f"the losses are finite, but after them {name} is not"
    return None
