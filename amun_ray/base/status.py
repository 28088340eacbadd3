"""How the search for a sample's adversarial neighbour ended: the codes that attacks return and shards store."""

from enum import IntEnum


class Status(IntEnum):
    """Rows of the first two kinds belong to an adversarial set."""

    FLIPPED = 0  # the model says `label`, which is not `true_label`
    ALREADY_WRONG = 1  # the clean image is misclassified: it is its own neighbour at distance 0
    FAILED = 2  # not flipped at the largest radius; the image is the last attempt
