"""In which precision a device works: the one place that knows who multiplies in bfloat16."""

import torch


def uses_bfloat16(precision: str, device: torch.device, *, on_cpu: bool) -> bool:
    """Whether forward passes run under bfloat16 autocast, for a `precision` of float32, bfloat16 or auto.

    "auto" is bfloat16 where the device has instructions for it: elsewhere it is emulated, and slower than float32.

    Args:
        on_cpu: whether "auto" holds for processors too. Those of one cluster may differ in this, so it is for work
            whose result is checked in float32 in any case, not for a training, whose weights would differ as well.
    """
    if precision != "auto":
        return precision == "bfloat16"
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return on_cpu and device.type == "cpu" and torch.cpu.get_capabilities().get("avx512_bf16", False)
