"""Arrays in, numbers out; only `predict` touches a model. Rates are in percent."""

from amun_ray.metrics import lira
from amun_ray.metrics.accuracy import accuracy, accuracy_interval
from amun_ray.metrics.auc import auc, auc_interval, roc, tpr_at_fpr
from amun_ray.metrics.bank import check_members
from amun_ray.metrics.boundary import adversarial_label, apollo, flip_confidences, moved_boundary
from amun_ray.metrics.confidence import logit_scaled, softmax, taylor_softmax
from amun_ray.metrics.connectivity import barrier
from amun_ray.metrics.distributions import epsilons, forgetting_quality, klom
from amun_ray.metrics.gap import (
    GAP_TERMS,
    GAP_TERMS_MIS,
    average_gap,
    is_unchanged,
    keeps_accuracies,
    proxy,
    tug_of_war,
)
from amun_ray.metrics.iam import iam_gap, unlearning_score
from amun_ray.metrics.linear import linear_probe
from amun_ray.metrics.memorisation import memorisation, thirds
from amun_ray.metrics.predict import predict
from amun_ray.metrics.rmia import RmiaSettings, offline_mean, out_mean, reference_mean
from amun_ray.metrics.rmia import scores as rmia_scores
from amun_ray.metrics.scoring import audit, score
from amun_ray.metrics.split import Split, check_split
from amun_ray.metrics.statistics import (
    Comparison,
    Interval,
    Summary,
    cases_needed,
    compare,
    crossed_mean,
    jackknife_error,
    summarize,
)
from amun_ray.metrics.svc import mis
from amun_ray.metrics.threshold import SIGNALS
from amun_ray.metrics.unlearned import unlearned_or_never

__all__ = [
    "GAP_TERMS",
    "GAP_TERMS_MIS",
    "SIGNALS",
    "Comparison",
    "Interval",
    "RmiaSettings",
    "Split",
    "Summary",
    "accuracy",
    "accuracy_interval",
    "adversarial_label",
    "apollo",
    "auc",
    "auc_interval",
    "audit",
    "average_gap",
    "barrier",
    "cases_needed",
    "check_members",
    "check_split",
    "compare",
    "crossed_mean",
    "epsilons",
    "flip_confidences",
    "forgetting_quality",
    "iam_gap",
    "is_unchanged",
    "jackknife_error",
    "keeps_accuracies",
    "klom",
    "linear_probe",
    "lira",
    "logit_scaled",
    "memorisation",
    "mis",
    "moved_boundary",
    "offline_mean",
    "out_mean",
    "predict",
    "proxy",
    "reference_mean",
    "rmia_scores",
    "roc",
    "score",
    "softmax",
    "summarize",
    "taylor_softmax",
    "thirds",
    "tpr_at_fpr",
    "tug_of_war",
    "unlearned_or_never",
    "unlearning_score",
]
