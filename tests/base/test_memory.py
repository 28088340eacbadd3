"""What a worker frees stays with it, up to a size."""

import platform
import subprocess
import sys
from types import SimpleNamespace

import pytest

from amun_ray.base import memory

KEPT = """
import resource
{first}
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize() / 2**20
before = resident()
for mib in 40, 100, 200:
    b"1" * (mib * 2**20)
    print(resident() - before)
"""
CHOSEN = "from amun_ray.base.memory import keep_freed_memory; keep_freed_memory()"
IN_A_WORKER = "from amun_ray.base.device import take_device; take_device(1)"


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library is left as it is")
@pytest.mark.parametrize(("first", "kept"), [("", [0, 0, 0]), (CHOSEN, [40, 100, 100]), (IN_A_WORKER, [40, 100, 100])])
def test_freed_memory_is_kept_and_used_again_but_for_what_is_very_large(first, kept):
    """MiB that the process holds after it freed 40, then 100, then 200; of what it keeps, the next is made."""
    found = subprocess.run([sys.executable, "-c", KEPT.format(first=first)], check=True, text=True,
                           capture_output=True).stdout
    assert list(map(float, found.split())) == pytest.approx(kept, abs=4)


def test_where_glibc_is_too_old_for_the_first_size_it_gets_the_second(monkeypatch):
    asked = []

    def mallopt(what, value):
        asked.append((what, value >> 20))
        return value <= 32 << 20
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: SimpleNamespace(mallopt=mallopt))
    memory.keep_freed_memory()
    assert asked == [(memory.M_TRIM_THRESHOLD, 512), (memory.M_MMAP_THRESHOLD, 128), (memory.M_MMAP_THRESHOLD, 32)]
