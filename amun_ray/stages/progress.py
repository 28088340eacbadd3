"""What a person sees while a stage works: what, how far, how long still. Only a terminal gets the moving bar."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from tqdm import tqdm


def say(text: str) -> None:
    """One line to standard output, at once."""
    print(text, flush=True)


@contextmanager
def bar(label: str, total: int, unit: str) -> Iterator[tqdm]:
    """A progress bar with rate and time left on a terminal, silence elsewhere; one closing line on both."""
    started = time.monotonic()
    with tqdm(total=total, desc=f"  {label}", unit=unit, disable=None, leave=False, file=sys.stderr) as progress:
        yield progress
    if total:
        say(f"  {label}: {total} {unit} in {time.monotonic() - started:.1f} s")
