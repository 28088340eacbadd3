"""In which precision "auto" works, on each kind of device."""

import pytest
import torch

from amun_ray.base.device import uses_bfloat16

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize("device", [CPU, GPU])
@pytest.mark.parametrize("on_cpu", [True, False])
def test_what_is_asked_for_is_done_anywhere(device, on_cpu):
    assert uses_bfloat16("bfloat16", device, on_cpu=on_cpu)
    assert not uses_bfloat16("float32", device, on_cpu=on_cpu)


@pytest.mark.parametrize("native", [True, False])
def test_auto_is_bfloat16_where_the_device_multiplies_in_it(native, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_f": True, "avx512_bf16": native},
                        raising=False)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: native and not including_emulation)
    assert uses_bfloat16("auto", CPU, on_cpu=True) is native
    assert uses_bfloat16("auto", GPU, on_cpu=False) is native
    assert uses_bfloat16("auto", CPU, on_cpu=False) is False


def test_auto_is_float32_on_a_processor_that_torch_cannot_describe(monkeypatch):
    """Before torch 2.11."""
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert uses_bfloat16("auto", CPU, on_cpu=True) is False
