"""STUDIES: what a config may ask of a finished sweep beyond its table (`study: NAME`), one study a file.

A study reads what the stages made, and may make more by the same stages; all of it has addresses in the same store, so
that it resumes like a sweep, and shares what sweeps and other studies have.
"""

from collections.abc import Callable, Mapping

from amun_ray.reporting.finding import Finding
from amun_ray.studies import attack_strength, confidence, distances, sensitivity, size, substitutes, theorem, timing
from amun_ray.studies.done import Done

__all__ = ["STUDIES", "Done", "study"]

STUDIES: Mapping[str, Callable[[Done], Finding]] = {
    "confidence": confidence.study,
    "distances": distances.study,
    "theorem": theorem.study,
    "attack_strength": attack_strength.study,
    "sensitivity": sensitivity.study,
    "substitutes": substitutes.study,
    "size": size.study,
    "timing": timing.study,
}


def study(done: Done) -> Finding | None:
    """What the config's study finds; None without one."""
    if (name := done.plan.sweep.study) is None:
        return None
    with done.experiment.stage(f"study {name}"):
        return STUDIES[name](done)
