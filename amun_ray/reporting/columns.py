"""What the columns of a result are called, which value of each is a good one, and what it says."""

COLUMNS = {"unlearn_accuracy": "Unlearn", "retain_accuracy": "Retain", "test_accuracy": "Test",
           "forget_test_auc": "FT AUC", "average_gap": "Avg. Gap"}
# What the other columns are: title, the value of a model that has forgotten, and what it says
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
    "lira_forget_called_member": ("U-LiRA", "as retrained", "forgotten samples likelier trained on than never seen"),
    **{f"{signal}_forget_{kind}": (f"{title} {suffix}", good, meaning)
       for signal, title in {"loss": "Loss", "confidence": "Confidence", "entropy": "Entropy",
                             "modified_entropy": "Modified entropy"}.items()
       for kind, suffix, good, meaning in (
           ("test_auc", "AUC", "50", "forgotten told from unseen by this number alone"),
           ("called_member", "threshold", "as retrained", "forgotten samples above their class's best threshold"))},
}
SHOWN = ("mis", "average_gap_mis", "rmia_forget_test_tpr_at_1pct_fpr", "rmia_forget_test_tpr_at_0.1pct_fpr",
         "lira_forget_test_auc", "modified_entropy_forget_test_auc")  # of these, below the table of the command
ACCESS = {"retain": "with D_R", "forget_only": "only D_F", None: ""}
SCORES = {"average_gap": "Avg. Gap", "proxy": "proxy"}  # what a search minimises
