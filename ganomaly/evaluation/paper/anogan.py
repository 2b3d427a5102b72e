"""AnoGAN (Schlegl et al. 2017, arXiv 1703.05921): a GAN of normal images, searched for the one nearest to an image.

Training knows no encoder (DCGAN, Radford et al. 2016). Scoring walks through the latent space with frozen weights, some
hundred steps for each image, and judges by how near the generator came.
"""

import torch
from torch import Tensor

from ganomaly.evaluation.paper.comparators import Comparator, weighted_distance
from ganomaly.networks.layers import Decoder, Discriminator, NetworkConfig
from ganomaly.networks.losses import discriminator_loss, generator_loss
from ganomaly.networks.training import Losses

SEARCH_STEPS = 500
SEARCH_RATE = 0.05
"""Adam's step size in the search."""


class AnoGAN(Comparator):
    """Generator G against discriminator D; noise is uniform in [-1, 1].

    Every search starts at the same point, drawn once: a score depends on the image alone. The paper draws a start for
    each image.
    """

    start_d: Tensor

    def __init__(self, size_px: int, channels: int, network: NetworkConfig, search_steps: int = SEARCH_STEPS) -> None:
        super().__init__()
        self.search_steps = search_steps
        self.latent_size = network.latent_size
        self.generator = Decoder(size_px, channels, network)
        self.discriminator = Discriminator(size_px, channels, network)
        self.register_buffer("start_d", self._noise(1, torch.Generator().manual_seed(0))[0])

    def _noise(self, n: int, rng: torch.Generator) -> Tensor:
        return torch.empty(n, self.latent_size).uniform_(-1, 1, generator=rng)

    def losses(self, x_bchw: Tensor, rng: torch.Generator) -> Losses:
        """D tells images from generated ones, G learns to have its own taken for images."""
        fake_bchw = self.generator(self._noise(len(x_bchw), rng).to(x_bchw.device))
        real_b, fake_b = self.discriminator(x_bchw).logits_b, self.discriminator(fake_bchw).logits_b
        return Losses(discriminator=discriminator_loss(real_b, fake_b), adversarial=generator_loss(fake_b))

    def score(self, x_bchw: Tensor) -> Tensor:
        """Distance in pixels and features to the nearest G(z) that the search finds (section 2.2)."""
        return self._distance(x_bchw, self._features(x_bchw), self.search(x_bchw))

    def search(self, x_bchw: Tensor) -> Tensor:
        """The z (B, D) whose G(z) comes nearest to each image, after `search_steps` steps."""
        f_bk = self._features(x_bchw)
        z_bd = self.start_d.repeat(len(x_bchw), 1)
        optimiser = torch.optim.Adam([z_bd], SEARCH_RATE)
        with torch.enable_grad():
            for _ in range(self.search_steps):
                z_bd.requires_grad_()
                # the sum: an image's distance has no gradient for another image's z
                (z_bd.grad,) = torch.autograd.grad(self._distance(x_bchw, f_bk, z_bd).sum(), [z_bd])
                optimiser.step()
        return z_bd.detach()

    def _features(self, x_bchw: Tensor) -> Tensor:
        return self.discriminator(x_bchw).features_bchw.flatten(1)  # type: ignore[no-any-return]

    def _distance(self, x_bchw: Tensor, f_bk: Tensor, z_bd: Tensor) -> Tensor:
        x_hat_bchw = self.generator(z_bd)
        return weighted_distance(x_bchw, x_hat_bchw, f_bk, self._features(x_hat_bchw))
