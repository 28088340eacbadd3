"""A worker's device: what it is called, and in which precision it works."""

import platform
from collections.abc import Callable
from pathlib import Path

import torch

from amun_ray.base.memory import keep_freed_memory


def take_device(threads: int) -> torch.device:
    """Make this process a worker: so many CPU threads, freed memory is kept; returns the device that Ray gave it."""
    keep_freed_memory()
    torch.set_num_threads(threads)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def gpu_memory() -> tuple[int, int] | None:
    """The most memory that this process has reserved on its GPU so far, and what that has, in bytes; None without."""
    return (torch.cuda.max_memory_reserved(), torch.cuda.mem_get_info()[1]) if torch.cuda.is_available() else None


def uses_bfloat16(precision: str, device: torch.device, *, on_cpu: bool) -> bool:
    """Whether forward passes run under bfloat16 autocast, for a `precision` of float32, bfloat16 or auto.

    "auto" is bfloat16 where the device has instructions for it; elsewhere it is emulated and slower than float32.
    For a CPU torch answers this from 2.11 on; before that, "auto" is float32.

    Args:
        on_cpu: whether "auto" may choose bfloat16 on a CPU. The CPUs of one cluster may differ, so set it only for
            work whose result is checked in float32 anyway, not for training, where the weights would differ.
    """
    if precision != "auto":
        return precision == "bfloat16"
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities: Callable[[], dict[str, bool]] = getattr(torch.cpu, "get_capabilities", dict)
    return on_cpu and device.type == "cpu" and capabilities().get("avx512_bf16", False)


def device_name(device: torch.device) -> str:
    """The device's name: `GPU NVIDIA H100`, or `CPU AMD EPYC 7763`."""
    if device.type == "cuda":
        return f"GPU {torch.cuda.get_device_name(device)}"
    return f"CPU {processor()}"


def processor() -> str:
    """The model name of this machine's CPU."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())
