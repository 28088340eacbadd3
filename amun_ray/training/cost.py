"""The cost of a training run, in units comparable between methods and machines."""

from dataclasses import dataclass


@dataclass
class Cost:
    """Counts samples, not batches: divided by the size of a set, they are passes over it."""

    forward: int = 0  # samples in a forward pass, for any purpose
    backward: int = 0  # samples in a backward pass
    seconds: float = 0.0  # wall-clock time of the training itself, without the caller's work between epochs

    def add(self, samples: int, *, backward: bool) -> None:
        """Count one forward pass of `samples` samples, and their backward pass if there is one."""
        self.forward += samples
        self.backward += samples * backward
