"""The section `audit` of a config: by what the final models are judged, beside accuracies and RMIA."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from amun_ray.config.fields import Ratio, Strict
from amun_ray.metrics.lira import Variance

LEAST_REFERENCES = 8  # of U-LiRA: four a side of each target, of which three judge

PROBES = ("boundary", "apollo", "linear_probe", "distance", "connectivity", "relearning",
          "autoattack")  # those that run finished models again


class AutoAttackConfig(Strict):
    """The ball round each test image in which AutoAttack searches, and at how many images."""

    norm: Literal["Linf", "L2"] = "Linf"
    """The norm of the ball."""
    eps: Ratio
    """Its radius, in pixels of [0, 1]; a fraction such as `8/255`, too."""
    samples: Annotated[int, Field(ge=1, le=1_000_000)] = 1000
    """Test images, at most; every model is attacked at the same ones."""

    @model_validator(mode="after")
    def _of_pixels(self) -> "AutoAttackConfig":
        if self.norm == "Linf" and self.eps >= 1:
            raise ValueError(f"eps must be below 1 in Linf, since pixels lie in [0, 1], but got {self.eps:g}; "
                             f"{self.eps:g}/255 may be meant")
        return self


class AuditConfig(Strict):
    """The attacks and metrics of the report; they judge final models, and change none. One that lacks what it needs is
    left out and named in the report; in the plan, too, where the config asks for it."""

    mis: bool = True
    """MIS, a support vector machine on confidences, and Avg. Gap with it."""
    lira: bool = True
    """LiRA with the reference models."""
    lira_variance: Variance = "auto"
    """Whose variance LiRA's normals have: `per_sample`, `pooled` or `fixed` as in the published code."""
    thresholds: bool = True
    """Thresholds of loss, confidence, entropy and modified entropy."""
    iam: bool = True
    """IAM: how far D_F is on the way from models that never saw it back to the original."""
    memorisation: bool = True
    """Accuracy and FT AUC of the least, medium and most memorised thirds of D_F."""
    klom: bool = True
    """KLOM of `models` unlearned against as many retrained models of each forget set."""
    forgetting_quality: bool = True
    """Forgetting quality of the NeurIPS 2023 challenge, of as many models."""
    boundary: bool = True
    """The attack on AMUN itself: whether the decision boundary has moved round D_F."""
    apollo: bool = False
    """Apollo, which asks for labels alone: whether the boundary is where models that never saw D_F have it."""
    linear_probe: bool = True
    """A linear classifier refitted to the features of the model."""
    distance: bool = True
    """L2 distance of the weights to those of the original and of a retrained model."""
    connectivity: bool = False
    """Barriers of loss and accuracy on the straight path of weights to these two models."""
    samples: Annotated[int, Field(ge=10, le=1_000_000)] = 500
    """Samples a side, at most, for `boundary`, `apollo`, `linear_probe` and `connectivity`."""
    relearning: bool = False
    """Fine-tuning on D_R and a few forgotten samples: how much of the rest of D_F comes back."""
    relearn_samples: Annotated[int, Field(ge=0, le=1_000_000)] = 10
    """Forgotten samples that `relearning` shows again, at most a fifth of D_F."""
    relearn_epochs: Annotated[int, Field(ge=1, le=1000)] = 10
    """Epochs of `relearning`."""
    relearn_lr: Annotated[float, Field(gt=0, le=1)] = 1e-5
    """Learning rate of `relearning`."""
    autoattack: AutoAttackConfig | None = None
    """Robust accuracy by the standard AutoAttack, of every model, at test images: `{norm: Linf, eps: 8/255}`."""
    ulira: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    """Targets of U-LiRA and RULI, 1000 for instance: every reference model unlearns those it saw, by every method."""
    models: Annotated[int, Field(ge=3, le=5000)] = 4
    """Models a side for `klom` and `forgetting_quality`; both need an `originals.count` of twice as many."""

    def chosen(self) -> list[str]:
        """The attacks that are switched on."""
        return [name for name, value in self.model_dump().items()
                if value is True or (name in ("ulira", "autoattack") and value)]

    def left_out(self, originals: int, forgotten: int, references: int) -> dict[str, str]:
        """The chosen attacks that lack what they need, with the reason.

        Args:
            originals: how many there are, and so many models are retrained without each final forget set.
            forgotten: the samples in the smallest of these.
            references: how many reference models there are.
        """
        lack: dict[str, str] = {}
        if originals < 2 * self.models:
            lack |= dict.fromkeys(("klom", "forgetting_quality"), (
                f"needs 2 x {self.models} (audit.models) retrained models of each forget set, and originals.count is "
                f"{originals}"))
        if originals < 2:
            lack["apollo"] = "needs 2 retrained models of each forget set, and originals.count is 1"
        if forgotten < 2:
            lack["relearning"] = "needs a forget set of at least 2 samples, and one has 1"
        if forgotten < 3:
            lack["memorisation"] = f"needs a forget set of at least 3 samples, and one has {forgotten}"
        if references < LEAST_REFERENCES:
            lack["ulira"] = f"needs {LEAST_REFERENCES} reference models, and references.count is {references}"
        elif self.ulira > 2 * forgotten:
            lack["ulira"] = (f"can have at most {2 * forgotten} targets, twice the forget set: a reference model "
                             "unlearns half of them, and settings are searched for that many")
        return {name: lack[name] for name in self.chosen() if name in lack}
