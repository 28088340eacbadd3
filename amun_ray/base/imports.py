"""Imports at less cost."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def importing() -> Iterator[None]:
    """No garbage is collected in this context, which would take a third of the time of large imports; what there is at
    its end is left out of later collections, that at the end of the program included."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
