"""The fast gradient sign method (Goodfellow et al., ICLR 2015): one step of the full radius."""

from torch import Tensor, nn

from amun_ray.attacks.adversarial import Adversarial, attacked, check_radius
from amun_ray.attacks.pgd_linf import move_linf
from amun_ray.attacks.radius import RadiusSearch


def fgsm(model: nn.Module, images: Tensor, labels: Tensor, *, radius: float | Tensor) -> Adversarial:
    """Move every pixel of images (N, C, H, W) by `radius` (one number or (N,)) against the gradient's sign."""
    check_radius(radius, len(images))
    return attacked(RadiusSearch(move=move_linf, eps_init=radius, doublings=0, steps=1), model, images, labels)
