"""GANomaly (Akcay, Atapour-Abarghouei, Breckon 2018, arXiv 1805.06725): encode, decode, encode again.

An image that looks normal comes back from the decoder as it was, and its second latent vector equals the first.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from ganomaly.networks.layers import Decoder, Discriminator, Encoder, NetworkConfig
from ganomaly.networks.losses import adversarial_loss, contextual_loss, discriminator_loss, encoder_loss
from ganomaly.networks.model import EVERYTHING, Judgement, Losses, Model, Wanted
from ganomaly.scoring.global_neighbours import appearance
from ganomaly.scoring.local_gaussian import local_views
from ganomaly.scoring.pixel_scores import describe, paper_score


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


class GANomaly(Model):
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

    def judge(self, x_bchw: Tensor, wanted: Wanted = EVERYTHING) -> Judgement:
        """The latent distance (equation 6), the reconstruction, and what the scores of this package look at.

        The second encoder runs only for the second pass, the discriminator only for the groups; if nothing is
        wanted, none does.
        """
        if not any(wanted):
            return Judgement(x_bchw.new_empty(0), x_bchw[:0], x_bchw.new_empty(0, 0))
        encoded = self.generator.encoder.pyramid.activations(x_bchw)
        z_bd = self.generator.encoder.last_step(encoded[-1])
        x_hat_bchw = self.generator.decoder(z_bd)
        judged = Judgement(x_bchw.new_empty(0), x_hat_bchw, x_bchw.new_empty(0, 0))
        if wanted.second_pass:
            z_hat_bd = self.generator.second_encoder(x_hat_bchw)
            features_bf = describe(x_bchw, x_hat_bchw, z_bd, z_hat_bd)
            judged = judged._replace(score_b=paper_score(z_bd, z_hat_bd), features_bf=features_bf)
        if wanted.local_views:
            judged = judged._replace(local_views=local_views(x_bchw, x_hat_bchw, encoded[1]))
        if wanted.groups:
            discriminated = self.discriminator.pyramid.activations(x_bchw, 1)
            groups = appearance(x_bchw, x_hat_bchw, z_bd, encoded[:3], discriminated, wanted.groups)
            judged = judged._replace(appearance=groups)
        return judged
