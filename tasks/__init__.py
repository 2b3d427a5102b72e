"""One module for each outside system or unit of work of the inspection pipeline."""
