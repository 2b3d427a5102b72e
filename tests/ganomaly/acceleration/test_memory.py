"""Memory of a scoring process."""

import platform
import subprocess
import sys

import pytest

SCORE = """
import resource
import numpy as np
import torch
from ganomaly import Detector, DetectorConfig

from ganomaly.acceleration.memory import keep_freed_memory

keep_freed_memory()
torch.set_num_threads(1)
config = DetectorConfig.model_validate({"recipe": {"size_px": 64}, "network": {"features": 32}})
detector = Detector(config, device="cpu")
pixels = np.random.default_rng(0).integers(0, 256, (32, 64, 64, 1), np.uint8)
detector.judge.fit(pixels)
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


HOLES = """
import ctypes
from ganomaly.acceleration.memory import give_back_freed_memory, keep_freed_memory

def resident_mb():
    return int(open("/proc/self/statm").read().split()[1]) * 4096 / 1e6

keep_freed_memory()
blocks = [bytearray(100_000) for _ in range(3000)]
for number in range(0, 3000, 30):
    blocks[number] = bytes(blocks[number])  # what stays in use lies among the rest
kept = blocks[::30]
del blocks
before = resident_mb()
give_back_freed_memory()
print(before - resident_mb())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc alone is told")
def test_freed_memory_between_what_is_in_use_goes_back() -> None:
    """A night of a million images would grow by gigabytes."""
    done = subprocess.run([sys.executable, "-c", HOLES], check=True, capture_output=True, text=True)
    assert float(done.stdout) > 200  # of 300 MB
