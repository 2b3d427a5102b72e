"""The commands `inspection` and `ganomaly`."""
