"""Measuring detectors: what anyone can repeat of every claim. No detector imports it.

- `folders`, `folder_tables`: a detector on anybody's folders, as `ganomaly benchmark` does it
- `paper`: the paper's comparison, as `ganomaly paper` does it
- `datasets`, `metrics`, `baselines`, `machine`: what both are made of
"""
