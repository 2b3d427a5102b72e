"""Memory of a scoring process."""

import platform
import subprocess
import sys

import pytest

SCORE = """
import resource
import numpy as np
from ganomaly import Detector, DetectorConfig

config = DetectorConfig.model_validate({"recipe": {"size_px": 64}, "score": {"method": "paper"}})
detector = Detector(config, device="cpu")
pixels = np.zeros((32, 64, 64, 1), np.uint8)
for _ in range(10):
    detector.raw_scores(pixels)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    detector.raw_scores(pixels)
print((resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) // 10)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc alone is told")
def test_a_batch_reuses_the_memory_of_the_one_before() -> None:
    """Each batch would have the system clear thousands of pages: up to a third of the time goes there."""
    done = subprocess.run([sys.executable, "-c", SCORE], check=True, capture_output=True, text=True)
    assert int(done.stdout) < 500  # it would be over 1,500
