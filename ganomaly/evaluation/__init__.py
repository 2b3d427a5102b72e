"""Measuring detectors: what anyone can repeat of every claim. No detector imports it.

- `ganomaly.evaluation.paper.presets`: what is run, as data
- `ganomaly.evaluation.plan`: from presets to jobs, each one training with one seed
- `ganomaly.evaluation.trial`: one job
- `ganomaly.evaluation.run`: all jobs, resumable
- `ganomaly.evaluation.rows`: what a job leaves on disk
- `ganomaly.evaluation.results`: tables; `ganomaly.evaluation.figures`: pictures
- `ganomaly.evaluation.textures`: photos of surfaces; `ganomaly.evaluation.drawn_defects`: defects whose place is known
- `ganomaly.evaluation.metrics`, `ganomaly.evaluation.localisation`: figures of merit of scores and heat maps
"""
