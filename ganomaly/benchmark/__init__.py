"""Measuring detectors: what anyone can repeat of every claim. No detector imports it.

- `ganomaly.benchmark.presets`: what is run, as data
- `ganomaly.benchmark.plan`: from presets to jobs, each one training with one seed
- `ganomaly.benchmark.trial`: one job
- `ganomaly.benchmark.run`: all jobs, resumable
- `ganomaly.benchmark.rows`: what a job leaves on disk
- `ganomaly.benchmark.results`: tables; `ganomaly.benchmark.figures`: pictures
- `ganomaly.benchmark.textures`: photos of surfaces (and `ganomaly.drawn_defects`: defects whose place is known)
- `ganomaly.benchmark.metrics`, `ganomaly.benchmark.localisation`: figures of merit of scores and heat maps
"""
