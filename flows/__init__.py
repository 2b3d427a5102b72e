"""The flows: named steps and typed parameters; what a step does stands in `tasks`."""
