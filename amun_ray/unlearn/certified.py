"""Certified unlearning by one damped Newton step and Gaussian noise (Zhang et al., ICML 2024).

Notation: L_R and L_F are the mean cross-entropy over D_R (n - m samples) and D_F (m samples) plus weight_decay / 2 *
|w|^2; w is the original model, a minimiser over D, so that grad L_R(w) = -m / (n - m) * grad L_F(w); H is the Hessian
of L_R at w.

    unlearned = w + m / (n - m) * (H + damping)^-1 grad L_F(w) + sigma * noise
"""

import math
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import torch

from amun_ray.base.errors import Diverged
from amun_ray.training.batches import send
from amun_ray.training.modes import has_batch_norm
from amun_ray.training.parts import Part
from amun_ray.unlearn.gradients import Vector, combine, curvature, dot, gradient, scaled, trainable
from amun_ray.unlearn.method import Certificate, Setting, Task
from amun_ray.unlearn.spectrum import FAILURE, Ends, ends, norm

SCALE_STEPS = 20  # of power iteration: a scale may be rough
LANCZOS_STEPS, NEAR = 100, 0.1  # at most so many; no more once the bound is within this share of what was found
SCALE_SAMPLES = 1024  # of D_R, to measure the largest curvature
SCALE_MARGIN = 1.5  # other batches may have a larger curvature than the measured ones
TINY = 1e-30  # avoids division by a norm of 0

CERTIFIED = {
    "damping": Setting(default=1.0, low=1e-2, high=1e3, log=True, at_least=0),
    "steps": Setting(default=100, low=10, high=1000, log=True, at_least=1),
    "scale": Setting(default=0, low=1, high=1e4, log=True, at_least=0),
    "sigma": Setting(default=1e-3, low=1e-4, high=1e-1, log=True, at_least=0),
    "delta": Setting(default=1e-5, low=1e-6, high=1e-3, log=True, above=0, at_most=0.5),
    "distance": Setting(default=0, low=1e-2, high=1e2, log=True, at_least=0),
    "hessian_lipschitz": Setting(default=0, low=1e-2, high=1e2, log=True, at_least=0),
}


def certified(task: Task) -> Iterator[int]:
    """Take the step, add the noise, put the certificate into `task.report`; yields 1 and ends, whatever the epochs.

    Learning rate and schedule are not used. Settings: `damping`; `steps` and `scale` of the recursion (scale 0:
    measure it); `sigma`, the noise's standard deviation; `delta`; and two assumptions that no run can check:
    `distance`, a bound on |w - retrained|, and `hessian_lipschitz`, a Lipschitz constant of the Hessian between the
    two. If either is left at 0, it is not assumed, and nothing is certified.

    Raises:
        Diverged: the recursion is no longer finite; a larger `scale` or `damping` fixes that.
    """
    forgotten, retained = len(task.sets.forget.labels), len(task.sets.retained.labels)
    slope = gradient(task.model, task.sets.forget, **_over(task))
    target = scaled(slope, forgotten / retained)  # equals -grad L_R if w is a minimiser over D
    step = inverse_curvature(task, target)
    if not dot(step, step).isfinite():
        raise Diverged("certified: the inverse-Hessian recursion is not finite; raise scale or damping")
    task.report.certificate = certify(task, target, step)
    with torch.no_grad():
        for name, weight in trainable(task.model).items():
            noise = torch.randn(weight.shape, generator=task.generator)
            weight += step[name] + task.settings["sigma"] * send(noise, weight.device)
    yield 1


def inverse_curvature(task: Task, vector: Vector) -> Vector:
    """(H + damping)^-1 `vector`, by the recursion v <- vector + v - (H_t + damping) v / scale over `steps` batches of
    D_R.

    H_t is the Hessian on a batch drawn with replacement. v / scale converges to the product where `scale` exceeds the
    largest eigenvalue of H + damping (Agarwal et al., JMLR 2017).
    """
    damping, scale = task.settings["damping"], task.settings["scale"] or _measured_scale(task)
    result = vector
    for _ in range(int(task.settings["steps"])):
        bent = curvature(task.model, _sample(task, task.recipe.batch_size), result, **_over(task))
        result = combine(combine(vector, 1 - damping / scale, result), -1 / scale, bent)
    return scaled(result, 1 / scale)


def certify(task: Task, target: Vector, step: Vector) -> Certificate:
    """The epsilon for `delta`, from a bound on the distance between the end of the step and the retrained model u.

    With D >= |w - u|, M the Lipschitz constant of the Hessian on the way, and s > 0 the smallest eigenvalue of H +
    damping, the exact Newton step ends within D (M D / 2 + damping) / s of u (theorem 3.4, where D is 2 C), because
    grad L_R(u) = 0 and the averaged Hessian between w and u differs from H by at most M D / 2. The actual step differs
    from the exact one by at most (stationarity + residual) / s: |grad L_R(w) + target| and |(H + damping) step -
    target|, both computed over all of D_R. Gaussian noise of `sigma` turns the sum into (epsilon, delta). For s stands
    a lower bound (see `spectrum.ends`), which fails with a probability of at most 2 `FAILURE`; where it is not
    positive, nothing is certified. The certificate covers weights alone: a model with batch norm gets none, since no
    step removes D_F from its statistics.

    Cost: at most `LANCZOS_STEPS` passes over D_R with two backward passes each, and as many vectors of memory as steps.
    """
    at, delta = task.settings, task.settings["delta"]
    if has_batch_norm(task.model):
        return Certificate(delta, None, "nothing is certified: batch norm statistics are those of all of D, and "
                                        "neither step nor noise takes D_F out of them")
    missing = [name for name in ("distance", "hessian_lipschitz", "sigma") if at[name] == 0]
    if missing:
        return Certificate(delta, None, f"nothing is certified: {', '.join(missing)} not given")
    stationarity = combine(gradient(task.model, task.sets.retained, **_over(task)), 1, target)
    bent = combine(curvature(task.model, task.sets.retained, step, **_over(task)), at["damping"], step)
    errors = norm(stationarity) + norm(combine(bent, -1, target))
    ends = _curvature_ends(task)
    smallest = ends.smallest - ends.error + at["damping"]
    if smallest <= 0:
        return Certificate(delta, None, f"nothing is certified: the smallest eigenvalue of H + damping lies between "
                                        f"{smallest:.3g} and {smallest + ends.error:.3g}; damping "
                                        f"({at['damping']:g}) must be raised until both are positive")
    newton = at["distance"] * (at["hessian_lipschitz"] * at["distance"] / 2 + at["damping"])
    bound = (newton + errors) / smallest
    return Certificate(delta, epsilon_of(bound / at["sigma"], delta),
                       f"assumes |original - retrained| <= {at['distance']:g} and a Hessian with Lipschitz constant "
                       f"{at['hessian_lipschitz']:g}; then |unlearned - retrained| <= {bound:.4g} before the noise, "
                       f"with {smallest:.3g} for the smallest eigenvalue of H + damping, of which it is a lower bound "
                       f"with probability 1 - {2 * FAILURE:g}")


def epsilon_of(shift: float, delta: float) -> float:
    """The smallest epsilon for which unit Gaussians `shift` apart are (epsilon, delta)-indistinguishable.

    Solves delta = Phi(shift / 2 - epsilon / shift) - exp(epsilon) * Phi(-shift / 2 - epsilon / shift), which is exact
    for any epsilon (Balle and Wang, ICML 2018, theorem 8); the classical formula holds only for epsilon < 1.
    """
    def leak(epsilon: float) -> float:
        sides = torch.tensor([shift / 2 - epsilon / shift, -shift / 2 - epsilon / shift], dtype=torch.float64)
        near, far = torch.special.log_ndtr(sides).tolist()
        return math.exp(near) - math.exp(min(near, epsilon + far))

    if leak(0.0) <= delta:
        return 0.0
    low, high = 0.0, 1.0
    while leak(high) > delta:
        low, high = high, 2 * high
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if leak(middle) > delta else (low, middle)
    return high


def _measured_scale(task: Task) -> float:
    """A scale at which the recursion contracts: the largest eigenvalue on a sample of D_R, with a margin."""
    sample = _sample(task, SCALE_SAMPLES)
    largest = _dominant(task, lambda vector: curvature(task.model, sample, vector, **_over(task)), SCALE_STEPS)
    return SCALE_MARGIN * (abs(largest) + task.settings["damping"])


def _curvature_ends(task: Task) -> Ends:
    """The ends of the spectrum of H over all of D_R, once it is clear whether H + damping is positive definite."""
    damping, known = task.settings["damping"], Ends(-math.inf, math.inf, math.inf)
    steps = ends(lambda vector: curvature(task.model, task.sets.retained, vector, **_over(task)), _direction(task))
    for known in islice(steps, LANCZOS_STEPS):
        if known.smallest + damping <= 0 or known.error <= NEAR * (known.smallest + damping):
            break
    return known


def _direction(task: Task) -> Vector:
    """A vector of random direction."""
    return {name: send(torch.randn(weight.shape, generator=task.generator), weight.device)
            for name, weight in trainable(task.model).items()}


def _dominant(task: Task, apply: Callable[[Vector], Vector], steps: int) -> float:
    """The eigenvalue of a symmetric linear map with the largest magnitude, by `steps` steps of power iteration."""
    vector, value = _direction(task), 0.0
    for _ in range(steps):
        vector = scaled(vector, 1 / max(norm(vector), TINY))
        turned = apply(vector)
        value, vector = dot(vector, turned).item(), turned
    return value


def _sample(task: Task, samples: int) -> Part:
    """`samples` samples of D_R, drawn with replacement."""
    retain = task.sets.retained
    rows = send(torch.randint(len(retain.labels), (samples,), generator=task.generator), retain.labels.device)
    return retain.take(rows, augment=False)


def _over(task: Task) -> dict[str, Any]:
    """The arguments shared by all derivatives of this task."""
    return {"batch_size": task.recipe.batch_size, "cost": task.report, "weight_decay": task.recipe.weight_decay}
