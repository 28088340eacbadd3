"""Adversarial examples: attacks as functions of a batch, and `craft`, which builds verified rows with any of them."""

from amun_ray.attacks.adversarial import Adversarial
from amun_ray.attacks.craft import Prepared, calibrate, craft
from amun_ray.attacks.ddn import ddn
from amun_ray.attacks.fast_fgsm import fast_fgsm
from amun_ray.attacks.look import Capacity
from amun_ray.attacks.nearest import nearest
from amun_ray.attacks.pgd_l2 import pgd_l2
from amun_ray.attacks.pgd_linf import fgsm, pgd_linf
from amun_ray.attacks.rows import AdversarialRows, AttackCost, report
from amun_ray.attacks.secant import secant
from amun_ray.attacks.settings import AttackSettings
from amun_ray.attacks.table import ATTACKS
from amun_ray.attacks.transfer import transfer
from amun_ray.base.status import Status

__all__ = [
           "ATTACKS",
           "Adversarial",
           "AdversarialRows",
           "AttackCost",
           "AttackSettings",
           "Capacity",
           "Prepared",
           "Status",
           "calibrate",
           "craft",
           "ddn",
           "fast_fgsm",
           "fgsm",
           "nearest",
           "pgd_l2",
           "pgd_linf",
           "report",
           "secant",
           "transfer",
]
