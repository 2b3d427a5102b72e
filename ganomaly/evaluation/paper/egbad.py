"""EGBAD (Zenati et al. 2018, arXiv 1802.06222): a bidirectional GAN (Donahue et al. 2016, arXiv 1605.09782).

An encoder learns beside the generator, so that scoring takes one pass where AnoGAN searches. The discriminator sees
pairs: (image, its code) or (generated image, the noise that it was made of).
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from ganomaly.acceleration.convolutions import Convolution
from ganomaly.evaluation.paper.comparators import Comparator, weighted_distance
from ganomaly.networks.layers import Decoder, Encoder, FeaturePyramid, NetworkConfig
from ganomaly.networks.losses import discriminator_loss
from ganomaly.networks.training import Losses


class PairDiscriminatorOutput(NamedTuple):
    """Logits (B,), high for encoded images, and f of the last hidden layer (B, K)."""

    logits_b: Tensor
    features_bk: Tensor


class PairDiscriminator(nn.Module):
    """D(x, z): image and latent vector each to a vector, both through one hidden layer, whose output is f(x, z).

    Half of the vectors' elements are dropped in training; the authors' code drops half after every hidden layer.
    """

    def __init__(self, size_px: int, channels: int, config: NetworkConfig) -> None:
        super().__init__()
        width = 8 * config.features
        self.pyramid = FeaturePyramid(size_px, channels, config.features)
        self.from_image = Convolution(self.pyramid.out_channels, width, self.pyramid.out_side_px)
        self.from_latent = nn.Linear(config.latent_size, width)
        self.hidden = nn.Linear(2 * width, width)
        self.to_logit = nn.Linear(width, 1)
        self.activation = nn.LeakyReLU(0.2)

    def forward(self, x_bchw: Tensor, z_bd: Tensor, dropout: torch.Generator | None = None) -> PairDiscriminatorOutput:
        """Judge pairs of an image (B, C, S, S) in [-1, 1] and a latent vector (B, D).

        Args:
            x_bchw: images.
            z_bd: latent vectors.
            dropout: a CPU generator in training: it chooses the half of each hidden layer that counts.
        """
        image_bk = self.activation(self.from_image(self.pyramid(x_bchw)).flatten(1))
        latent_bk = self.activation(self.from_latent(z_bd))
        both_bk = _drop_half(torch.cat([image_bk, latent_bk], dim=1), dropout)
        features_bk = _drop_half(self.activation(self.hidden(both_bk)), dropout)
        return PairDiscriminatorOutput(self.to_logit(features_bk).flatten(), features_bk)


def _drop_half(vectors_bk: Tensor, rng: torch.Generator | None) -> Tensor:
    if rng is None:
        return vectors_bk
    kept_bk = torch.empty(vectors_bk.shape).bernoulli_(0.5, generator=rng).to(vectors_bk.device)
    return 2 * kept_bk * vectors_bk


class EGBAD(Comparator):
    """Encoder E and generator G against the discriminator of pairs; noise is N(0, 1)."""

    def __init__(self, size_px: int, channels: int, network: NetworkConfig) -> None:
        super().__init__()
        self.latent_size = network.latent_size
        self.encoder = Encoder(size_px, channels, network)
        self.generator = Decoder(size_px, channels, network)
        self.discriminator = PairDiscriminator(size_px, channels, network)

    def losses(self, x_bchw: Tensor, rng: torch.Generator) -> Losses:
        """D tells (x, E(x)) from (G(z), z); E and G both learn to have the one taken for the other."""
        z_bd = torch.randn(len(x_bchw), self.latent_size, generator=rng).to(x_bchw.device)
        encoded_b = self.discriminator(x_bchw, self.encoder(x_bchw), rng).logits_b
        generated_b = self.discriminator(self.generator(z_bd), z_bd, rng).logits_b
        return Losses(
            discriminator=discriminator_loss(encoded_b, generated_b),
            adversarial=discriminator_loss(generated_b, encoded_b),  # the labels exchanged
        )

    def score(self, x_bchw: Tensor) -> Tensor:
        """Distance to G(E(x)) in pixels and in the features of D, with the same code E(x) beside both images."""
        z_bd = self.encoder(x_bchw)
        x_hat_bchw = self.generator(z_bd)
        f_bk = self.discriminator(x_bchw, z_bd).features_bk
        return weighted_distance(x_bchw, x_hat_bchw, f_bk, self.discriminator(x_hat_bchw, z_bd).features_bk)
