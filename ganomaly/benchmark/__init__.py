"""The comparison that the paper's claim is: methods, data sets, classes and seeds in one table that anyone can repeat.

- `ganomaly.benchmark.presets`: what is run, as data
- `ganomaly.benchmark.plan`: from presets to jobs, each one training with one seed
- `ganomaly.benchmark.trial`: one job
- `ganomaly.benchmark.run`: all jobs, resumable
- `ganomaly.benchmark.rows`: what a job leaves on disk
- `ganomaly.benchmark.results`: tables; `ganomaly.benchmark.figures`: pictures
"""
