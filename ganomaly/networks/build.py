"""The methods behind the detector: GANomaly, and those that its paper compares it with.

One module each, which reads as the method: its networks, the losses of one training step, its score.

- `ganomaly.networks.ganomaly`: G_E, G_D, E against D (Akcay 2018)
- `ganomaly.evaluation.paper.egbad`: a bidirectional GAN, judged in pairs (Zenati 2018)
- `ganomaly.evaluation.paper.anogan`: a GAN whose latent space is searched for each image (Schlegl 2017)
- `ganomaly.evaluation.paper.aae`: an autoencoder against a discriminator of latent vectors (Makhzani 2015)

All are built of the same encoder, decoder and discriminator (`ganomaly.networks.layers`) and trained by the same loop
(`ganomaly.networks.training`), so that a comparison compares the methods.
"""

import torch

from ganomaly.evaluation.paper.aae import AAE
from ganomaly.evaluation.paper.anogan import AnoGAN
from ganomaly.evaluation.paper.egbad import EGBAD
from ganomaly.networks.ganomaly import GANomaly
from ganomaly.networks.layers import NetworkConfig, initialise
from ganomaly.networks.model import Judgement, Losses, Model, ModelConfig

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
