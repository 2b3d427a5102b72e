"""The paper's comparison: the methods that GANomaly is compared with, and its experiments."""
