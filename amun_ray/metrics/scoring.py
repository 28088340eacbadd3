"""From one set of predictions to the numbers of a table row."""

from collections.abc import Collection

import numpy as np
import torch

from amun_ray.metrics import lira, threshold
from amun_ray.metrics.accuracy import accuracy, check_logits
from amun_ray.metrics.auc import auc, tpr_at_fpr
from amun_ray.metrics.confidence import logit_scaled
from amun_ray.metrics.rmia import (
    DEFAULTS,
    RmiaSettings,
    forget_retain_auc,
    forget_test_auc,
    retain_test_auc,
    scores,
)
from amun_ray.metrics.split import Split, check_split
from amun_ray.metrics.svc import mis

UNINFORMATIVE = 50.0  # percent: the AUC if all scores are equal, since each tie counts one half
ATTACKS = ("rmia", "mis", "lira", "thresholds")  # of `audit`
FEW_FALSE_ALARMS = {"0.1pct": 0.1, "1pct": 1.0}  # FPR in percent: the share of D_T called member


def score(
    logits: np.ndarray,
    labels: np.ndarray,
    rows: Split,
    reference_mean: np.ndarray,
    *,
    settings: RmiaSettings = DEFAULTS,
    strict: bool = False,
) -> dict[str, float]:
    """Accuracies and RMIA AUCs of one model, all in percent.

    Args:
        logits: (N, classes) of the model, one row per sample of D + D_T.
        labels: (N,) true classes.
        rows: the rows of D_R, D_F and D_T (see `Split`); their union is RMIA's population.
        reference_mean: (N,) from `rmia.reference_mean` (or `offline_mean`), computed with the same `settings`.
        settings: RMIA's parameters.
        strict: refuse if RMIA gives every sample the same score. Otherwise such an AUC is 50, since all pairs tie:
            a trial whose network collapsed is a bad result, not a user error.

    Returns:
        `unlearn_accuracy` (D_F), `retain_accuracy` (D_R), `test_accuracy` (D_T): target = the retrained model's.
        `forgotten_test_accuracy`, if whole classes are forgotten: on their test images, which `test_accuracy` then
        leaves out; the target is the retrained model's, which is 0.
        `forget_test_auc`: 50 is ideal. `forget_retain_auc`, `retain_test_auc`: target = the retrained model's.

    Raises:
        UserError: an empty or overlapping split, arrays of different lengths, or logits that are not finite.
    """
    logits, labels = check_logits(logits, labels)
    check_split(rows, len(labels))
    population = np.concatenate(rows)
    membership = scores(settings.confidence(logits, labels), reference_mean, population, gamma=settings.gamma)
    constant = None if strict else UNINFORMATIVE
    values = {
        "unlearn_accuracy": accuracy(logits[rows.forget], labels[rows.forget]),
        "retain_accuracy": accuracy(logits[rows.retain], labels[rows.retain]),
        "test_accuracy": accuracy(logits[rows.test], labels[rows.test]),
        "forget_test_auc": forget_test_auc(membership, rows, constant=constant),
        "forget_retain_auc": forget_retain_auc(membership, rows, constant=constant),
        "retain_test_auc": retain_test_auc(membership, rows, constant=constant),
    }
    if rows.forgotten_test.size:
        values["forgotten_test_accuracy"] = accuracy(logits[rows.forgotten_test], labels[rows.forgotten_test])
    return values


def audit(
    logits: np.ndarray,
    labels: np.ndarray,
    rows: Split,
    reference_mean: np.ndarray,
    *,
    generator: torch.Generator,
    settings: RmiaSettings = DEFAULTS,
    normals: lira.Lira | None = None,
    attacks: Collection[str] = ATTACKS,
) -> dict[str, float]:
    """All other `attacks` on one model, in percent. For final models: seconds, where `score` takes milliseconds.

    Arguments as in `score`; `generator` draws the samples of the SVC attack; `normals` come from `lira.fit`.

    Returns:
        `{attack}_forget_test_auc` for rmia, lira and the threshold signals: 50 is ideal.
        `{attack}_forget_test_tpr_at_{0.1pct, 1pct}_fpr` for rmia and lira: 0.1 and 1 are ideal.
        `{attack}_forget_called_member` for lira and the signals, `mis` (share called NON-member): target = the
        retrained model's. Without `normals` the lira entries are missing.

    Raises:
        UserError: as in `score`.
    """
    logits, labels = check_logits(logits, labels)
    check_split(rows, len(labels))
    rates: dict[str, float] = {}
    strong: dict[str, np.ndarray] = {}
    if "rmia" in attacks:
        confidence = settings.confidence(logits, labels)
        strong["rmia"] = scores(confidence, reference_mean, np.concatenate(rows), gamma=settings.gamma)
    if "mis" in attacks:
        rates["mis"] = mis(logits, labels, rows, generator=generator)
    if "lira" in attacks and normals is not None:
        value = logit_scaled(logits, labels)
        strong["lira"] = lira.log_likelihood_ratio(value, normals)
        rates["lira_forget_called_member"] = lira.forget_called_member(value, normals, rows)
    chosen = threshold.SIGNALS if "thresholds" in attacks else {}
    signals = {name: signal(logits, labels) for name, signal in chosen.items()}
    for name, values in {**strong, **signals}.items():
        rates[f"{name}_forget_test_auc"] = auc(values[rows.forget], values[rows.unseen], constant=UNINFORMATIVE)
    for name, values in strong.items():
        for title, fpr in FEW_FALSE_ALARMS.items():
            rate = tpr_at_fpr(values[rows.forget], values[rows.unseen], fpr)
            rates[f"{name}_forget_test_tpr_at_{title}_fpr"] = rate
    for name, values in signals.items():
        rates[f"{name}_forget_called_member"] = threshold.forget_called_member(values, labels, rows)
    return rates
