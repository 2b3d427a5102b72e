"""GANomaly's networks, its losses and its training."""
