"""Adversarial examples: attacks as functions of a batch, and `craft`, which makes verified rows with any of them."""

from amun_ray.attacks.adversarial import Adversarial
from amun_ray.attacks.craft import calibrate, craft
from amun_ray.attacks.ddn import ddn
from amun_ray.attacks.fast_fgsm import fast_fgsm
from amun_ray.attacks.fgsm import fgsm
from amun_ray.attacks.nearest import nearest
from amun_ray.attacks.pgd_l2 import pgd_l2
from amun_ray.attacks.pgd_linf import pgd_linf
from amun_ray.attacks.rows import ALREADY_WRONG, FAILED, FLIPPED, STATUS, AdversarialRows, Cost, report
from amun_ray.attacks.settings import AttackSettings
from amun_ray.attacks.table import ATTACKS
from amun_ray.attacks.transfer import transfer

__all__ = ["ALREADY_WRONG", "ATTACKS", "FAILED", "FLIPPED", "STATUS", "Adversarial", "AdversarialRows",
           "AttackSettings", "Cost", "calibrate", "craft", "ddn", "fast_fgsm", "fgsm", "nearest", "pgd_l2", "pgd_linf",
           "report", "transfer"]
