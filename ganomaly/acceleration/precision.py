"""The arithmetic of the networks: float32, or bfloat16 where the hardware multiplies it faster.

Weights, optimiser, batch norm's statistics, losses and everything that is fitted on normal images stay float32; in
bfloat16 are the products within the networks' convolutions and what lies between them.
"""

from typing import Literal

import torch

Precision = Literal["fp32", "bf16"]
PrecisionSetting = Literal["auto", "fp32", "bf16"]


def choose_precision(setting: PrecisionSetting, device: torch.device) -> Precision:
    """What a setting means on a device; "auto" is bfloat16 where the hardware computes in it, float32 elsewhere."""
    if setting != "auto":
        return setting
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    if device.type == "cpu":
        return "bf16" if _cpu_has_bf16() else "fp32"
    return "fp32"


def _cpu_has_bf16() -> bool:
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def arithmetic(precision: Precision, device: torch.device) -> torch.autocast:
    """A context in which networks compute in the given precision; enter it anew for each batch."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")
