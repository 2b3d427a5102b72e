"""This project against anomalib's Ganomaly and a plain fp32 implementation of the authors' step: ``make bench``."""
