"""GANomaly over feature maps: encode, decode, encode again, with the three losses of the paper (arXiv 1805.06725).

Differences from the networks over pixels follow from the input. Maps come in any size, so all layers are convolutions
and the latent vector is a small map. A map has many channels of equal importance, so the contextual loss adds the angle
between the vectors of a place to their absolute distance. And a frozen network's maps are reconstructed too easily to
tell anything, so the generator gets them with noise and without some channels, which it has to infer from the others
and from the rest of the part.
"""

import math

import torch
import torch.nn.functional as F  # noqa: N812 - the name everybody uses
from torch import Tensor, nn

from ganomaly.networks.losses import adversarial_loss, contextual_loss, discriminator_loss, encoder_loss
from ganomaly.networks.training import Losses, Trainable

WIDTH = 64
LATENT = 32
"""Channels of the latent map."""
REDUCTION = 4
"""Places of the input per place of the latent map, each way."""
NOISE = 0.2
"""Deviation of what is added to the input, which has deviation 1."""
DROPPED = 0.1
"""Share of the channels that the input lacks."""
WARM_UP = 0.1
"""Share of the training in which the step size grows."""


class MapEncoder(nn.Module):
    """A map (B, K, h, w) to a latent map (B, LATENT, h / 4, w / 4)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(channels, WIDTH, 1),
            nn.LeakyReLU(0.2),
            *_halving(WIDTH, WIDTH),
            *_halving(WIDTH, 2 * WIDTH),
            nn.Conv2d(2 * WIDTH, LATENT, 3, padding=1),
        )

    def forward(self, x_bkhw: Tensor) -> Tensor:
        """Encode."""
        z_bdhw: Tensor = self.layers(x_bkhw)
        return z_bdhw


class MapDecoder(nn.Module):
    """A latent map (B, LATENT, h / 4, w / 4) to a map (B, K, h, w)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(LATENT, 2 * WIDTH, 3, padding=1, bias=False),
            nn.BatchNorm2d(2 * WIDTH),
            nn.ReLU(),
            *_doubling(2 * WIDTH, WIDTH),
            *_doubling(WIDTH, WIDTH),
            nn.Conv2d(WIDTH, channels, 1),
        )

    def forward(self, z_bdhw: Tensor) -> Tensor:
        """Decode."""
        x_hat_bkhw: Tensor = self.layers(z_bdhw)
        return x_hat_bkhw


class MapDiscriminator(nn.Module):
    """A map (B, K, h, w) to a logit for each field of it, and the features of the layer before."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(channels, WIDTH, 1), nn.LeakyReLU(0.2), *_halving(WIDTH, WIDTH), *_halving(WIDTH, WIDTH)
        )
        self.to_logit = nn.Conv2d(WIDTH, 1, 3, padding=1)

    def forward(self, x_bkhw: Tensor) -> tuple[Tensor, Tensor]:
        """Judge fields: logits (B, 1, h / 4, w / 4) and features (B, WIDTH, h / 4, w / 4)."""
        features = self.features(x_bkhw)
        return self.to_logit(features), features


class FeatureGANomaly(Trainable):
    """The generator with its second encoder, and the discriminator whose features it learns to match.

    Args:
        channels: K of the maps.

    Attributes:
        standard: float32 (2, K), mean and deviation of each number of a vector before it was standardised.
    """

    standard: Tensor
    discriminator: MapDiscriminator

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.encoder = MapEncoder(channels)
        self.decoder = MapDecoder(channels)
        self.second_encoder = MapEncoder(channels)
        self.discriminator = MapDiscriminator(channels)
        self.register_buffer("standard", torch.stack([torch.zeros(channels), torch.ones(channels)]))

    def losses(self, x_bkhw: Tensor, rng: torch.Generator) -> Losses:
        """L_adv, L_con and L_enc (equations 2 to 4), and real against reconstructed maps for D."""
        whole_bkhw = _to_multiple(x_bkhw)
        z_bdhw = self.encoder(_corrupted(whole_bkhw, rng))
        x_hat_bkhw = self.decoder(z_bdhw)
        z_hat_bdhw = self.second_encoder(x_hat_bkhw)
        real_logits, real_features = self.discriminator(whole_bkhw)
        fake_logits, fake_features = self.discriminator(x_hat_bkhw)
        angle = (1 - F.cosine_similarity(whole_bkhw, x_hat_bkhw, dim=1)).mean()
        return Losses(
            discriminator=discriminator_loss(real_logits, fake_logits),
            adversarial=adversarial_loss(real_features.detach(), fake_features),
            contextual=angle + contextual_loss(whole_bkhw, x_hat_bkhw),
            encoder=encoder_loss(z_bdhw, z_hat_bdhw),
        )

    def residual(self, x_bkhw: Tensor) -> Tensor:
        """X - x_hat (B, K, h, w): the second encoder does not run."""
        height, width = x_bkhw.shape[2:]
        x_hat_bkhw = self.decoder(self.encoder(_to_multiple(x_bkhw)))
        residual_bkhw: Tensor = x_bkhw - x_hat_bkhw[..., :height, :width]
        return residual_bkhw


def _halving(channels: int, out: int) -> tuple[nn.Module, ...]:
    return nn.Conv2d(channels, out, 4, 2, 1, bias=False), nn.BatchNorm2d(out), nn.LeakyReLU(0.2)


def _doubling(channels: int, out: int) -> tuple[nn.Module, ...]:
    return nn.ConvTranspose2d(channels, out, 4, 2, 1, bias=False), nn.BatchNorm2d(out), nn.ReLU()


def _to_multiple(x_bkhw: Tensor) -> Tensor:
    """The map with its last row and column repeated until both sides are multiples of `REDUCTION`."""
    height, width = x_bkhw.shape[2:]
    below, beside = -height % REDUCTION, -width % REDUCTION
    return F.pad(x_bkhw, (0, beside, 0, below), mode="replicate") if below or beside else x_bkhw


def _corrupted(x_bkhw: Tensor, rng: torch.Generator) -> Tensor:
    noise = NOISE * torch.randn(x_bkhw.shape, generator=rng).to(x_bkhw.device)
    kept = torch.rand((*x_bkhw.shape[:2], 1, 1), generator=rng).to(x_bkhw.device) > DROPPED
    return (x_bkhw + noise) * kept


def one_cycle(done: float) -> float:
    """A step size that grows for a tenth of the training and then shrinks to nothing (Smith 2018, arXiv 1803.09820)."""
    if done < WARM_UP:
        return (0.1 * WARM_UP + done) / (1.1 * WARM_UP)
    return 0.5 * (1 + math.cos(math.pi * (done - WARM_UP) / (1 - WARM_UP)))
