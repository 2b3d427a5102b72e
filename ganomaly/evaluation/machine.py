"""Where a row was made: what a reader needs to judge a duration."""

import platform
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch

from ganomaly.acceleration.cores import usable_cores
from ganomaly.acceleration.devices import pick_device


@dataclass(frozen=True)
class Machine:
    """Device, processors and versions."""

    device: str
    cpu: str
    cores: int
    threads: int
    gpu: str
    python: str
    torch: str
    opencv: str
    numpy: str

    @property
    def summary(self) -> str:
        """In words: processors first, versions after a semicolon."""
        processors = f"{self.threads} of {self.cores} cores of {self.cpu or self.device}"
        with_gpu = f", {self.gpu}" if self.gpu else ""
        versions = f"Python {self.python}, PyTorch {self.torch}, OpenCV {self.opencv}, numpy {self.numpy}"
        return f"{processors}{with_gpu}; {versions}"


def describe_machine(device: str) -> Machine:
    """Look at this machine.

    Args:
        device: as `Detector` takes it.

    Raises:
        ValueError: for a device that is not there.
    """
    picked = pick_device(device)
    return Machine(
        device=picked.type,
        cpu=_cpu(),
        cores=usable_cores(),
        threads=torch.get_num_threads(),
        gpu=torch.cuda.get_device_name(picked) if picked.type == "cuda" else "",
        python=platform.python_version(),
        torch=torch.__version__,
        opencv=cv2.__version__,
        numpy=np.__version__,
    )


def _cpu() -> str:
    """Model of the CPU as Linux names it, elsewhere as Python knows it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8", errors="replace").splitlines() if info.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())
