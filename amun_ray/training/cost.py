"""What a training cost, in units that can be compared between methods and machines."""

from dataclasses import dataclass


@dataclass
class Cost:
    """Counts samples, not batches: divided by the size of a set they are passes over it."""

    forward: int = 0  # samples that went through a model, whatever for
    backward: int = 0  # samples whose gradient was taken
    seconds: float = 0.0  # wall clock of the training itself, without what the caller does between epochs

    def add(self, samples: int, *, backward: bool) -> None:
        """Count one forward pass of `samples` samples, and their backward pass where there is one."""
        self.forward += samples
        self.backward += samples * backward
