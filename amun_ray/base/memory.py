"""What becomes of freed memory: a worker keeps it for its next batch."""

import ctypes

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # as malloc.h of glibc numbers them
KEPT_BYTES = 512 * 2**20  # so much freed memory at the end of the heap is kept
# From this size on, memory is mapped for itself, and goes back when it is freed: the second where glibc is old.
MAPPED_BYTES = 128 * 2**20, 32 * 2**20


def keep_freed_memory() -> None:
    """Let this process keep the memory that it frees.

    By itself glibc gives freed activations back to the system after most batches, and the next batch pays a page fault
    for each 4 KiB. Another C library is left as it is.
    """
    if (mallopt := getattr(ctypes.CDLL(None), "mallopt", None)) is not None:
        mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)
        any(mallopt(M_MMAP_THRESHOLD, size) for size in MAPPED_BYTES)
