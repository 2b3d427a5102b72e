"""From what networks say to a verdict: scores, their fusion, calibration, heat map."""
