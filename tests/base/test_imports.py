import gc
import weakref
from contextlib import suppress

from amun_ray.base.imports import importing


class Ring:
    """Garbage that only a collection finds."""

    def __init__(self):
        self.itself = self


def test_nothing_is_collected_among_imports_and_what_they_made_is_left_out_afterwards():
    frozen = gc.get_freeze_count()
    with suppress(ImportError), importing():
        assert not gc.isenabled()
        made = weakref.ref(Ring())
        raise ImportError  # whatever happens
    later = weakref.ref(Ring())
    try:
        gc.collect()
        assert gc.isenabled()
        assert gc.get_freeze_count() > frozen
        assert (made() is None, later() is None) == (False, True)
    finally:
        gc.unfreeze()
