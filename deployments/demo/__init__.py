"""The demo: a week of a solar-cell plant."""
