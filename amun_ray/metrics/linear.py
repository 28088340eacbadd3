"""The linear probe: what is still to be read of D_F in the features of a model, whatever its last layer says."""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from amun_ray.base.errors import UserError

STEPS = 100  # of L-BFGS: as many as change which images are right


def linear_probe(features: np.ndarray, labels: np.ndarray, forget: np.ndarray) -> float:
    """Percent of D_F that a linear classifier gets right, fitted to frozen features of D_R and D_F. Target: the
    retrained model's.

    It is logistic regression with the L2 penalty ||w||^2 / 2 on standardised features: scikit-learn's, without the
    seconds that a worker takes to load that. Like the published probe, it is fitted to the images that it is asked
    about, so many features of few images give 100 for every model.

    Args:
        features: (n, D) of images of D_R and of D_F.
        labels: (n,) their true classes.
        forget: (n,) bool, True for those of D_F.

    Raises:
        UserError: shapes that do not fit, values that are not finite, or nothing of D_F.
    """
    if features.ndim != 2 or not len(features) == len(labels) == len(forget):
        raise UserError(f"linear probe: features {features.shape}, labels {labels.shape} and {forget.shape} marks of "
                        "D_F must be (n, D), (n,) and (n,) of the same images")
    if not np.isfinite(features).all() or not forget.any():
        raise UserError("linear probe: the features are not all finite, or no image is of D_F")
    values, truth = torch.from_numpy(features).double(), torch.from_numpy(np.unique(labels, return_inverse=True)[1])
    spread = values.std(dim=0, correction=0)
    values = (values - values.mean(dim=0)) / torch.where(spread > 0, spread, 1)
    logits = torch.addmm(*_fitted(values, truth))
    return 100 * float((logits.argmax(1) == truth)[torch.from_numpy(forget)].double().mean())


def _fitted(values: Tensor, truth: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The intercepts (classes,), `values` (n, D) and weights (D, classes) of the logits."""
    both = values.new_zeros(values.shape[1] + 1, int(truth.max()) + 1, requires_grad=True)
    optimizer = torch.optim.LBFGS([both], max_iter=STEPS, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        logits = torch.addmm(both[-1], values, both[:-1])
        value = F.cross_entropy(logits, truth, reduction="sum") + both[:-1].square().sum() / 2
        value.backward()
        return value

    optimizer.step(loss)
    fitted = both.detach()
    return fitted[-1], values, fitted[:-1]
