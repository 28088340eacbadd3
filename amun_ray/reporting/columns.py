"""The columns of a result: names, good values, and what each one says."""

from collections.abc import Collection
from math import inf

COLUMNS = {"unlearn_accuracy": "Unlearn", "retain_accuracy": "Retain", "test_accuracy": "Test",
           "forgotten_test_accuracy": "Class Test",  # only where whole classes are forgotten
           "forget_test_auc": "FT AUC", "average_gap": "Avg. Gap"}
# What the other columns are: title, the value of a model that has forgotten, and what it says
ENDS = {"original": "the", "retrained": "a"}  # to which models weights are compared
ATTACKS = {
    "mis": ("MIS", "as retrained", "forgotten samples that a support vector classifier of confidences calls unseen"),
    "average_gap_mis": ("Avg. Gap (MIS)", "0", "Avg. Gap with MIS in the place of FT AUC"),
    "forget_retain_auc": ("FR AUC", "as retrained", "RMIA: retained told from forgotten"),
    "retain_test_auc": ("RT AUC", "as retrained", "RMIA: retained told from unseen, the most that the attack can"),
    "rmia_forget_test_tpr_at_1pct_fpr": ("RMIA TPR@1%", "1", "forgotten samples found while 1 % of unseen are accused"),
    "rmia_forget_test_tpr_at_0.1pct_fpr": ("RMIA TPR@0.1%", "0.1", "the same while 0.1 % of unseen are accused"),
    "lira_forget_test_auc": ("LiRA AUC", "50", "LiRA: forgotten told from unseen"),
    "lira_forget_test_tpr_at_1pct_fpr": ("LiRA TPR@1%", "1", "forgotten samples found while 1 % of unseen are accused"),
    "lira_forget_test_tpr_at_0.1pct_fpr": ("LiRA TPR@0.1%", "0.1", "the same while 0.1 % of unseen are accused"),
    "lira_forget_called_member": ("LiRA members", "as retrained", "forgotten samples likelier trained on than unseen"),
    "tug_of_war": ("ToW", "100", "accuracies on D_F, D_R and D_T near the retrained ones: product of 1 - |difference|"),
    "retain_test_auc_change": ("RT AUC change", "as retrained", "RT AUC less the original's: above 0, unlearning leaks "
                               "more of D_R"),
    "iam": ("IAM", "as retrained", "mean score of D_F, from about 0 (as the original) to 100 (as if never seen)"),
    **{f"{term}_{group}": (f"{title}, {group} mem.", good, f"{meaning}, of the third of D_F of {group} memorisation")
       for term, title, good, meaning in (("unlearn_accuracy", "Unlearn", "as retrained", "right"),
                                          ("forget_test_auc", "FT AUC", "50", "told from unseen"))
       for group in ("low", "medium", "high")},
    **{f"klom_{part}": (f"KLOM {title} (nats)", "as retrained", "95th percentile over samples of the divergence from "
                        "retrained models")
       for part, title in {"forget": "D_F", "retain": "D_R", "test": "D_T"}.items()},
    "boundary_auc": ("Boundary AUC", "50", "forgotten told from unseen by the distance to another decision, less that "
                     "of retrained models; below 50: it was pulled near"),
    "boundary_two_sided_auc": ("Boundary AUC, two-sided", "as retrained", "the same by how unusual this is"),
    "boundary_tpr_at_1pct_fpr": ("Boundary TPR@1%", "as retrained", "the same while 1 % of unseen are accused"),
    "adversarial_label_kept": ("Adv. label kept", "as retrained", "forgotten samples at whose adversarial image the "
                               "model says what the original did"),
    "adversarial_label_auc": ("Adv. label AUC", "50", "unlearned told from retrained models by how far this label "
                              "leads there"),
    "adversarial_label_tpr_at_1pct_fpr": ("Adv. label TPR@1%", "1", "the same while 1 % are accused wrongly"),
    **{f"apollo_{side}_{kind}": (f"Apollo {side} {suffix}", good, f"{meaning}{where}")
       for side, where in {"under": "still says the label where models that never saw it do not",
                           "over": "no longer says it where they do"}.items()
       for kind, suffix, good, meaning in (
           ("auc", "AUC", "50", "forgotten told from unseen by labels alone: the model "),
           ("tpr_at_1pct_fpr", "TPR@1%", "1", "the same while 1 % of unseen are accused: it "))},
    "linear_probe": ("Linear probe", "as retrained", "right on D_F, by a linear classifier refitted to the features"),
    **{f"distance_{end}": (f"Distance to {article} {end}", "as retrained", "L2 norm of the difference of all weights")
       for end, article in ENDS.items()},
    **{f"{what}_barrier_{end}": (f"{what.title()} barrier to {article} {end}", "as retrained", f"{meaning} on the "
                                 "straight path of weights")
       for what, meaning in {"loss": "most by which the loss rises, in nats,",
                             "accuracy": "most by which accuracy on D_R falls"}.items()
       for end, article in ENDS.items()},
    "relearned_accuracy": ("Relearned", "as retrained", "right on the rest of D_F, at best, after fine-tuning on D_R "
                           "and a few of D_F"),
    "relearned_more": ("Relearned more", "0", "the same less that of retrained models after as many epochs, at most"),
    "robust_accuracy": ("Robust accuracy", "as retrained", "test images that are right and stay so under AutoAttack"),
    **{f"{name}_{kind}": (f"{title} {suffix}", good, f"{meaning}; over reference models")
       for name, title in {"ulira": "U-LiRA", "ruli": "RULI"}.items()
       for kind, suffix, good, meaning in (
           ("auc", "AUC", "50", "unlearned targets told from never seen ones"),
           ("tpr_at_1pct_fpr", "TPR@1%", "1", "the same while 1 % are accused wrongly"),
           ("tpr_at_0.1pct_fpr", "TPR@0.1%", "0.1", "the same while 0.1 % are accused wrongly"))},
    "forgetting_quality": ("Forgetting quality", "as retrained", "NeurIPS 2023: 100 if no forgotten sample tells "
                           "unlearned from retrained models"),
    "challenge_score": ("Challenge score", "as retrained", "forgetting quality times retain and test accuracy over "
                        "the retrained ones"),
    **{f"{signal}_forget_{kind}": (f"{title} {suffix}", good, meaning)
       for signal, title in {"loss": "Loss", "confidence": "Confidence", "entropy": "Entropy",
                             "modified_entropy": "Modified entropy"}.items()
       for kind, suffix, good, meaning in (
           ("test_auc", "AUC", "50", "forgotten told from unseen by this number alone"),
           ("called_member", "threshold", "as retrained", "forgotten samples above their class's best threshold"))},
}
SHOWN = ("mis", "average_gap_mis", "rmia_forget_test_tpr_at_1pct_fpr", "rmia_forget_test_tpr_at_0.1pct_fpr",
         "lira_forget_test_auc", "modified_entropy_forget_test_auc", "iam", "boundary_auc",
         "adversarial_label_auc", "apollo_under_auc", "apollo_over_auc", "linear_probe", "relearned_accuracy",
         "robust_accuracy", "ulira_auc", "ruli_auc", "klom_forget",
         "forgetting_quality")  # of these, below the table of the command
RANGES = {**dict.fromkeys(("retain_test_auc_change", "relearned_more"), (-100.0, 100.0)), **dict.fromkeys(
    ("klom_forget", "klom_retain", "klom_test", "challenge_score",
     *(f"{what}_{end}" for what in ("distance", "loss_barrier") for end in ENDS)), (0.0, inf))}  # no shares in percent
ACCESS = {"retain": "with D_R", "forget_only": "only D_F", None: ""}
WHOLE_CLASS = ("whole classes are forgotten: Test is the accuracy on test images of the other classes, Class Test that "
               "on those of the forgotten ones, which retrained models have an output for and never learn. Near 0 is "
               "good in Class Test and in Unlearn. FT AUC tells the forgotten images from the test images of their own "
               "classes; near 50, as retrained models have it, is good. Class Test is no part of Avg. Gap.")
SCORES = {"average_gap": "Avg. Gap", "proxy": "proxy", "iam_gap": "IAM difference"}  # what a search minimises


def shown_columns(terms: Collection[str]) -> dict[str, str]:
    """The columns of a table whose rows have the scores `terms`."""
    return {term: title for term, title in COLUMNS.items() if term in terms}


def title(method: str, access: str | None) -> str:
    """What a row is called: `amun with D_R`."""
    return f"{method} {ACCESS[access]}".rstrip()
