"""The losses of GANomaly (arXiv 1805.06725, section 3.3) and those of every GAN, each a mean over batch and elements.

Equations are those of the paper; its authors train with means, too.
"""

import torch
import torch.nn.functional as F  # noqa: N812 - the name everybody uses
from torch import Tensor


def adversarial_loss(f_real_bchw: Tensor, f_fake_bchw: Tensor) -> Tensor:
    """L_adv, feature matching: squared distance between D's features of x and x_hat (equation 2)."""
    return F.mse_loss(f_fake_bchw, f_real_bchw)


def contextual_loss(x_bchw: Tensor, x_hat_bchw: Tensor) -> Tensor:
    """L_con: absolute distance between the image and its reconstruction (equation 3)."""
    return F.l1_loss(x_hat_bchw, x_bchw)


def encoder_loss(z_bd: Tensor, z_hat_bd: Tensor) -> Tensor:
    """L_enc: squared distance between the latent vectors of the image and of its reconstruction (equation 4)."""
    return F.mse_loss(z_hat_bd, z_bd)


def discriminator_loss(logits_real_b: Tensor, logits_fake_b: Tensor) -> Tensor:
    """Binary cross-entropy of real against fake, averaged over both halves."""
    real = F.binary_cross_entropy_with_logits(logits_real_b, torch.ones_like(logits_real_b))
    fake = F.binary_cross_entropy_with_logits(logits_fake_b, torch.zeros_like(logits_fake_b))
    return (real + fake) / 2


def generator_loss(logits_fake_b: Tensor) -> Tensor:
    """Binary cross-entropy of fake taken for real; unlike log(1 - D) it teaches while D wins (Goodfellow 2014)."""
    return F.binary_cross_entropy_with_logits(logits_fake_b, torch.ones_like(logits_fake_b))
