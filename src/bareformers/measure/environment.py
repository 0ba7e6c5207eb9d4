"""The machine and the software that a number was measured with."""

from __future__ import annotations

import os
import platform
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

PACKAGES = ("bareformers", "torch", "transformers", "tokenizers", "sacrebleu")


@cache
def _cpuinfo() -> dict[str, str]:
    path = Path("/proc/cpuinfo")
    if not path.exists():
        return {}
    pairs = (line.partition(":") for line in path.read_text(encoding="utf-8").splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def bf16_pays(device: torch.device) -> bool:
    """Whether bf16 products are native, and so several times as fast as fp32; emulated ones are slower."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    flags = _cpuinfo().get("flags", "").split()
    return device.type == "cpu" and ("avx512_bf16" in flags or "amx_bf16" in flags)


def uses_bf16(precision: str, device: torch.device) -> bool:
    """What the `precision` of a recipe means on `device`: `auto` takes bf16 where it pays."""
    return precision == "bf16" or precision == "auto" and bf16_pays(device)


def default_device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def describe(precision: str = "auto") -> dict[str, str]:
    """Processor, threads, precision of training, system and versions, as the report shows them."""
    found = {
        "processor": _cpuinfo().get("model name") or platform.processor() or platform.machine(),
        "cores": str(os.cpu_count()),
        "threads": str(torch.get_num_threads()),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "dtype": "bf16 autocast" if uses_bf16(precision, default_device()) else "fp32",
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "system": f"{platform.system()} {'.'.join(platform.release().split('.')[:2])}",
        "python": platform.python_version(),
    }
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
