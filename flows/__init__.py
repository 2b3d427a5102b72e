"""The flows: named steps and typed parameters; what a step does stands in `tasks`."""

import gc

gc.set_threshold(10_000)  # with Python's 700 the collector takes a quarter of the time that the imports of a flow take
