"""The methods behind the detector: GANomaly, and those that its paper compares it with.

One module each, which reads as the method: its networks, the losses of one training step, its score.

- `ganomaly.models.ganomaly`: G_E, G_D, E against D (Akcay 2018)
- `ganomaly.models.egbad`: a bidirectional GAN, encoder and generator against a discriminator of pairs (Zenati 2018)
- `ganomaly.models.anogan`: a GAN whose latent space is searched for each image (Schlegl 2017)
- `ganomaly.models.aae`: an autoencoder against a discriminator of latent vectors (Makhzani 2015)

All are built of the same encoder, decoder and discriminator (`ganomaly.networks`) and trained by the same loop
(`ganomaly.training`), so that a comparison compares the methods.
"""

import torch

from ganomaly.models.aae import AAE
from ganomaly.models.anogan import AnoGAN
from ganomaly.models.base import Judgement, Losses, Model, ModelConfig
from ganomaly.models.egbad import EGBAD
from ganomaly.models.ganomaly import GANomaly
from ganomaly.networks import NetworkConfig, initialise

__all__ = ["AAE", "EGBAD", "AnoGAN", "GANomaly", "Judgement", "Losses", "Model", "ModelConfig", "build_model"]


def build_model(
    size_px: int, channels: int, network: NetworkConfig, config: ModelConfig, rng: torch.Generator
) -> Model:
    """Build the networks of a method with weights drawn from ``rng`` (a CPU generator).

    The global random state is left as it was.
    """
    with torch.random.fork_rng(devices=[]):
        model = _construct(size_px, channels, network, config)
    initialise(model, rng)
    return model.to(memory_format=torch.channels_last)


def _construct(size_px: int, channels: int, network: NetworkConfig, config: ModelConfig) -> Model:
    match config.kind:
        case "ganomaly":
            return GANomaly(size_px, channels, network)
        case "egbad":
            return EGBAD(size_px, channels, network, config.feature_weight)
        case "anogan":
            return AnoGAN(size_px, channels, network, config)
        case "aae":
            return AAE(size_px, channels, network)
