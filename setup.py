"""The commands. A wheel holds the detector; the plant's `inspection` runs from a checkout, where its line files are."""

import sys

from setuptools import setup

COMMANDS = ["ganomaly = ganomaly.cli:app"]
OF_A_CHECKOUT = ["inspection = deployments.commands.inspection:app"]

setup(entry_points={"console_scripts": COMMANDS + (OF_A_CHECKOUT if "editable_wheel" in sys.argv else [])})
