"""GANomaly (Akcay, Atapour-Abarghouei, Breckon 2018, arXiv 1805.06725): encode, decode, encode again.

An image that looks normal comes back from the decoder as it was, and its second latent vector equals the first.
"""

from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ganomaly.acceleration.precision import Precision, arithmetic
from ganomaly.networks.layers import Decoder, Discriminator, Encoder, NetworkConfig
from ganomaly.networks.losses import adversarial_loss, contextual_loss, discriminator_loss, encoder_loss
from ganomaly.networks.training import Losses, Trainable


class GeneratorOutput(NamedTuple):
    """What one pass through the generator and its second encoder yields."""

    x_hat_bchw: Tensor
    z_bd: Tensor
    z_hat_bd: Tensor


class Generator(nn.Module):
    """G with the second encoder E: x to z to x_hat to z_hat (figure 2, the upper and right-hand networks)."""

    def __init__(self, size_px: int, channels: int, config: NetworkConfig) -> None:
        super().__init__()
        self.encoder = Encoder(size_px, channels, config)
        self.decoder = Decoder(size_px, channels, config)
        self.second_encoder = Encoder(size_px, channels, config)

    def forward(self, x_bchw: Tensor) -> GeneratorOutput:
        """Reconstruct images (B, C, S, S) and encode the reconstruction again."""
        z_bd = self.encoder(x_bchw)
        x_hat_bchw = self.decoder(z_bd)
        return GeneratorOutput(x_hat_bchw, z_bd, self.second_encoder(x_hat_bchw))


class GANomaly(Trainable):
    """The generator with its second encoder, and the discriminator whose features it learns to match."""

    discriminator: Discriminator

    def __init__(self, size_px: int, channels: int, config: NetworkConfig) -> None:
        super().__init__()
        self.generator = Generator(size_px, channels, config)
        self.discriminator = Discriminator(size_px, channels, config)

    def losses(self, x_bchw: Tensor, rng: torch.Generator) -> Losses:  # noqa: ARG002 - draws no noise
        """L_adv, L_con and L_enc (equations 2 to 4), and real against reconstructed images for D."""
        fake = self.generator(x_bchw)
        real_judged = self.discriminator(x_bchw)
        fake_judged = self.discriminator(fake.x_hat_bchw)
        return Losses(
            discriminator=discriminator_loss(real_judged.logits_b, fake_judged.logits_b),
            adversarial=adversarial_loss(real_judged.features_bchw.detach(), fake_judged.features_bchw),
            contextual=contextual_loss(x_bchw, fake.x_hat_bchw),
            encoder=encoder_loss(fake.z_bd, fake.z_hat_bd),
        )


class Pass:
    """One batch of images on its way through the networks: each network runs when somebody asks for what it gives.

    Args:
        networks: in ``eval()`` mode.
        x_bchw: images (B, C, S, S) in [-1, 1].
        precision: that the networks compute in.
    """

    def __init__(self, networks: GANomaly, x_bchw: Tensor, precision: Precision = "fp32") -> None:
        self._networks = networks
        self._precision: Precision = precision
        self.x_bchw = x_bchw

    def _arithmetic(self) -> torch.autocast:
        return arithmetic(
            self._precision, self.x_bchw.device
        )  # anew: one that is entered twice ends in the wrong state

    @cached_property
    @torch.no_grad()
    def encoded(self) -> list[Tensor]:
        """The output of each layer of G_E, the finest first: (B, features, S/2, S/2), in any precision."""
        with self._arithmetic():
            return self._networks.generator.encoder.pyramid.activations(self.x_bchw)

    @cached_property
    @torch.no_grad()
    def z_bd(self) -> Tensor:
        """Latent vectors (B, D)."""
        with self._arithmetic():
            return self._networks.generator.encoder.last_step(self.encoded[-1])

    @cached_property
    @torch.no_grad()
    def x_hat_bchw(self) -> Tensor:
        """Reconstructions (B, C, S, S) in [-1, 1]."""
        with self._arithmetic():
            x_hat_bchw: Tensor = self._networks.generator.decoder(self.z_bd)
            return x_hat_bchw

    @cached_property
    @torch.no_grad()
    def z_hat_bd(self) -> Tensor:
        """Latent vectors (B, D) of the reconstructions."""
        with self._arithmetic():
            z_hat_bd: Tensor = self._networks.generator.second_encoder(self.x_hat_bchw)
            return z_hat_bd

    @cached_property
    @torch.no_grad()
    def discriminated_bchw(self) -> Tensor:
        """The output of the first layer of D, (B, features, S/2, S/2), in any precision."""
        with self._arithmetic():
            return self._networks.discriminator.pyramid.activations(self.x_bchw, 1)[0]
