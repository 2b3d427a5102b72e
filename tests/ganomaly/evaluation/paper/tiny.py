"""Comparators of the smallest size."""

from collections.abc import Callable
from functools import partial

from ganomaly import DetectorConfig
from ganomaly.evaluation.paper.aae import AAE
from ganomaly.evaluation.paper.anogan import AnoGAN
from ganomaly.evaluation.paper.comparators import Comparator
from ganomaly.evaluation.paper.egbad import EGBAD
from ganomaly.networks.ganomaly import GANomaly


def construct(
    kind: str, config: DetectorConfig, search_steps: int = 5
) -> Callable[[], Comparator] | Callable[[], GANomaly]:
    """What makes networks of a kind: ganomaly or a comparator."""
    sizes = (config.recipe.size_px, config.recipe.channels, config.network)
    if kind == "anogan":
        return partial(AnoGAN, *sizes, search_steps)
    kinds = {"egbad": EGBAD, "aae": AAE, "ganomaly": GANomaly}
    return partial(kinds[kind], *sizes)
