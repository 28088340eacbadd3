"""The tables of the AMUN paper (Ebrahimpour-Boroojeny, Sundaram, Chandrasekaran, ICML 2025, arXiv 2503.00917)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from amun_ray.reporting.protocol import L1, LABELS, Either
from amun_ray.unlearn.plans import PAPER, SCRIPTS

TERMS = ("unlearn_accuracy", "retain_accuracy", "test_accuracy", "forget_test_auc", "average_gap")
Numbers = Mapping[str, tuple[float, ...]]  # method -> mean of each of a table's terms, in percent


@dataclass(frozen=True, kw_only=True)
class PaperTable:
    """One table of the paper, or its part with one access: its rows by the fraction that is forgotten, and the protocol
    it was made with, as far as a config says it."""

    name: str
    models: str
    access: str
    terms: tuple[str, ...] = TERMS
    protocol: Mapping[str, Any]
    rows: Mapping[float, Numbers]


RESNET18, VGG19 = "CIFAR-10, ResNet-18", "Tiny ImageNet, VGG19"
CLEAN, WARM = ("50 steps of 0.1 eps, each radius from the clean image, read after all, cross_entropy",
               "50 steps of 0.1 eps, each radius from the last one, stopped at the first flip, cross_entropy")
UNLEARNING = {
    "augmentation": "crop 4, flip on",
    "training": "sgd, lr 0.1 x 0.1 every 40 epochs, momentum 0.9, weight decay 0.0005",
    "arithmetic": "float32", "original models": 3, "forget sets": 3, "runs": 3, "reference models": 128,
    "RMIA": Either(*(f"Taylor order {order}, margin 0.6, temperature 2, gamma 2" for order in (4, 3))),
    "epochs of unlearning, at most": 10, "searched learning rates": "1e-06 to 0.1, never, every_1, every_5",
    "attack": "pgd_l2", "share of weights that a mask moves": "searched from 0.1 to 0.9",
    "weight of the l1 norm": Either(*(L1[way].format(10) for way in (0, 1))),
    "labels of boundary_shrink": Either(LABELS[PAPER], LABELS[SCRIPTS]), "batch norm in passes without D_R": "updated"}
CIFAR10 = {"data": "cifar10", "training images": 50_000, "network": "resnet18", "epochs of training": 200,
           "loss of training": "cross_entropy", "batch of training": 128, **UNLEARNING,
           "epochs of reference models": Either(200, 161), "Algorithm 1": Either(CLEAN, WARM), "first radius": 0.04,
           "unlearning": "sgd, momentum 0.9, weight decay 0.0005, batch 128"}
TINY_IMAGENET = {"classes": 200, "pixels a side": 64, "training images": 100_000, "network": "vgg19",
                 "epochs of training": 200, "loss of training": "cross_entropy", "batch of training": 256, **UNLEARNING,
                 "Algorithm 1": Either(CLEAN, WARM.replace("50", "10")), "first radius": Either(0.16, 0.04),
                 "unlearning": "sgd, momentum 0.9, weight decay 0.0005, batch 256"}
CLIPPED = CIFAR10 | {"epochs of training": 120, "epochs of reference models": Either(120, 101),
                     "bound on singular values": 1.0}
RETRAIN = {0.1: {"retrain": (94.49, 100.00, 94.33, 50.00, 0.00)}, 0.5: {"retrain": (92.09, 100.00, 91.85, 50.01, 0.00)}}
TINY_RETRAIN = {"retrain": (55.93, 99.98, 55.96, 50.06, 0.00)}

TABLES: dict[str, tuple[PaperTable, ...]] = {
    "paper_table1": (PaperTable(name="Table 1", models=RESNET18, access="retain", protocol=CIFAR10, rows={
        0.1: RETRAIN[0.1] | {
            "finetune": (95.16, 96.64, 92.21, 52.08, 2.06),
            "random_label": (95.54, 97.47, 92.17, 51.33, 1.74),
            "gradient_ascent": (98.94, 99.22, 93.39, 60.96, 4.28),
            "boundary_shrink": (99.14, 99.89, 93.04, 57.85, 3.48),
            "l1_sparse": (94.29, 95.63, 91.55, 51.21, 2.16),
            "salun": (96.25, 98.14, 93.06, 50.88, 1.44),
            "amun": (95.45, 99.57, 93.45, 50.18, 0.62),
            "amun_salun": (95.02, 99.58, 93.29, 50.72, 0.68),
        },
        0.5: RETRAIN[0.5] | {
            "finetune": (94.24, 95.82, 91.21, 51.74, 2.17),
            "random_label": (94.83, 99.79, 90.08, 50.78, 1.38),
            "gradient_ascent": (100.00, 100.00, 94.65, 63.39, 4.62),
            "boundary_shrink": (55.24, 55.67, 50.16, 55.19, 32.01),
            "l1_sparse": (98.00, 98.71, 92.79, 54.44, 2.67),
            "salun": (96.68, 99.89, 91.97, 50.86, 1.36),
            "amun": (93.50, 99.71, 92.39, 49.99, 0.33),
            "amun_salun": (93.56, 99.72, 92.52, 49.81, 0.36),
        },
    }),),
    # the retrained models of table 1 are the target here too: they do not depend on the access
    "paper_table2": (PaperTable(name="Table 2", models=RESNET18, access="forget_only", protocol=CIFAR10, rows={
        0.1: RETRAIN[0.1] | {
            "random_label": (100.00, 100.00, 94.45, 61.85, 4.31),
            "gradient_ascent": (4.77, 5.07, 5.09, 49.78, 68.53),
            "boundary_shrink": (100.00, 100.00, 94.48, 61.41, 4.20),
            "salun": (100.00, 100.00, 94.47, 61.09, 4.11),
            "amun": (94.28, 97.47, 91.67, 52.24, 1.94),
            "amun_salun": (94.19, 97.71, 91.79, 51.93, 1.77),
        },
        0.5: RETRAIN[0.5] | {
            "random_label": (100.00, 100.00, 94.57, 61.99, 4.29),
            "gradient_ascent": (100.00, 100.00, 92.65, 63.41, 5.13),
            "boundary_shrink": (100.00, 100.00, 94.58, 62.43, 4.40),
            "salun": (100.00, 100.00, 94.59, 62.45, 4.40),
            "amun": (92.77, 95.66, 89.43, 52.60, 2.51),
            "amun_salun": (91.90, 96.59, 89.98, 52.32, 2.00),
        },
    }),),
    "paper_table3": tuple(PaperTable(
        name="Table 3", models="CIFAR-10, ResNet-18 without batch norm, spectral norms clipped to 1", access=access,
        terms=("forget_test_auc", "forget_retain_auc", "test_accuracy"), protocol=CLIPPED,
        rows={0.1: {"retrain": (49.95, 54.08, 89.01), "amun": few},
              0.5: {"retrain": (50.19, 55.61, 85.76), "amun": half}})
        for access, few, half in (("retain", (49.12, 53.60, 86.94), (49.41, 54.22, 87.38)),
                                  ("forget_only", (49.55, 54.01, 87.55), (49.64, 53.23, 87.39)))),
    "paper_table4": (PaperTable(name="Table 4", models=VGG19, access="retain", protocol=TINY_IMAGENET, rows={
        0.1: TINY_RETRAIN | {
            "finetune": (74.99, 96.88, 56.29, 61.66, 8.36),
            "random_label": (59.66, 68.19, 50.78, 51.38, 10.50),
            "gradient_ascent": (0.46, 0.49, 0.50, 49.80, 52.67),
            "boundary_shrink": (0.50, 0.51, 0.51, 49.80, 52.65),
            "l1_sparse": (55.27, 60.64, 49.82, 54.49, 12.80),
            "salun": (66.54, 76.63, 49.56, 54.64, 11.24),
            "amun": (62.57, 93.66, 55.52, 57.33, 5.17),
            "amun_salun": (62.96, 94.42, 55.80, 57.65, 5.09),
        },
    }),),
    "paper_table5": (PaperTable(name="Table 5", models=VGG19, access="forget_only", protocol=TINY_IMAGENET, rows={
        0.1: TINY_RETRAIN | {
            "random_label": (1.36, 1.74, 1.27, 51.17, 52.15),
            "gradient_ascent": (0.44, 0.51, 0.50, 50.55, 52.81),
            "boundary_shrink": (0.93, 0.97, 1.02, 49.96, 52.28),
            "salun": (2.46, 2.89, 2.13, 52.20, 51.63),
            "amun": (58.54, 62.34, 43.22, 63.05, 16.50),
            "amun_salun": (62.37, 68.47, 45.44, 61.24, 14.91),
        },
    }),),
    # with D_R the printed columns give a gap of 1.64, not 1.02: one of them is misprinted
    "paper_table_trades": tuple(PaperTable(
        name="the table on TRADES", models="CIFAR-10, ResNet-18 trained by TRADES", access=access,
        protocol=CIFAR10 | {"loss of training": "trades"},
        rows={0.1: {"retrain": (82.33, 94.22, 81.72, 50.04, 0.00), "amun": amun}})
        for access, amun in (("retain", (82.65, 94.33, 84.99, 47.18, 1.02)),
                             ("forget_only", (81.38, 87.45, 79.74, 54.61, 3.57)))),
}
