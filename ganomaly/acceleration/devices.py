"""The device that networks compute on: a GPU where there is one. Without it: pass ``"cpu"``."""

import torch


def pick_device(name: str) -> torch.device:
    """Resolve ``"auto"`` to CUDA, Apple's MPS or the CPU.

    Raises:
        ValueError: for a name that torch does not know or a device that is not there.
    """
    if name != "auto":
        try:
            torch.empty(0, device=name)
        except (RuntimeError, AssertionError) as error:
            raise ValueError(f"device = {name!r}: not usable here ({error}); use auto, cpu or cuda") from error
        return torch.device(name)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
