"""An adversarial autoencoder (Makhzani et al. 2015, arXiv 1511.05644) that judges by its reconstruction error.

The discriminator looks at latent vectors, not at images: it keeps the codes of normal images where the prior is dense,
so that the decoder knows no other images than normal ones.
"""

import torch
import torch.nn.functional as F  # noqa: N812 - the name everybody uses
from torch import Tensor, nn

from ganomaly.evaluation.paper.comparators import Comparator
from ganomaly.networks.layers import Decoder, Encoder, NetworkConfig
from ganomaly.networks.losses import discriminator_loss, generator_loss
from ganomaly.networks.training import Losses


class LatentDiscriminator(nn.Sequential):
    """Latent vectors (B, D) to logits (B, 1): two hidden layers."""

    def __init__(self, config: NetworkConfig) -> None:
        width = 8 * config.features
        super().__init__(
            nn.Linear(config.latent_size, width),
            nn.LeakyReLU(0.2),
            nn.Linear(width, width),
            nn.LeakyReLU(0.2),
            nn.Linear(width, 1),
        )


class AAE(Comparator):
    """Encoder and decoder; the discriminator tells draws from the prior N(0, 1) from codes of images."""

    def __init__(self, size_px: int, channels: int, config: NetworkConfig) -> None:
        super().__init__()
        self.latent_size = config.latent_size
        self.encoder = Encoder(size_px, channels, config)
        self.decoder = Decoder(size_px, channels, config)
        self.discriminator = LatentDiscriminator(config)

    def losses(self, x_bchw: Tensor, rng: torch.Generator) -> Losses:
        """Mean squared error of the reconstruction, and codes that learn to be taken for draws from the prior."""
        z_bd = self.encoder(x_bchw)
        prior_bd = torch.randn(z_bd.shape, generator=rng).to(x_bchw.device)
        prior_b, code_b = self.discriminator(prior_bd).flatten(), self.discriminator(z_bd).flatten()
        return Losses(
            discriminator=discriminator_loss(prior_b, code_b),
            adversarial=generator_loss(code_b),
            contextual=F.mse_loss(self.decoder(z_bd), x_bchw),
        )

    def score(self, x_bchw: Tensor) -> Tensor:
        """The mean squared error, which is what training makes small for normal images."""
        x_hat_bchw: Tensor = self.decoder(self.encoder(x_bchw))
        return (x_bchw - x_hat_bchw).square().flatten(1).mean(1)
