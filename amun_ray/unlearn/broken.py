"""Methods that break some weights once, and then repair the model by fine-tuning on D_R.

None of them trains on D_F. Each changes the weights before the first epoch; what follows is `plans.finetune`.
"""

import torch
from torch import nn

from amun_ray.base.errors import UserError
from amun_ray.training.batches import send
from amun_ray.training.loop import EpochPlan
from amun_ray.unlearn.gradients import trainable
from amun_ray.unlearn.method import Setting, Task
from amun_ray.unlearn.plans import finetune

NOISE = {"noise": Setting(default=0.02, low=2e-3, high=0.2, log=True, at_least=0)}


def weight_distortion(task: Task) -> EpochPlan:
    """Gaussian noise of standard deviation `noise` on every weight, then fine-tuning (Siddiqui et al., NeurIPS 2025).

    The noise is drawn on the CPU, from the run's own generator.
    """
    with torch.no_grad():
        for weight in trainable(task.model).values():
            weight += task.settings["noise"] * send(torch.randn(weight.shape, generator=task.generator), weight.device)
    return finetune(task)


def convolution_transpose(task: Task) -> EpochPlan:
    """Every convolution kernel transposed, height with width, then fine-tuning (CT of Cadet et al., 2024).

    As in the entry to the NeurIPS 2023 challenge that it comes from, each of the network's 2-d convolutions is
    transposed. One whose kernel is not square keeps its weights, since its transpose would not fit.

    Raises:
        UserError: nothing would change: no convolution has a square kernel larger than 1 x 1.
    """
    layers = [layer for layer in convolutions(task.model) if layer.kernel_size[0] == layer.kernel_size[1] > 1]
    if not layers:
        raise UserError("convolution_transpose needs a convolution with a square kernel larger than 1 x 1, and this "
                        "network has none")
    with torch.no_grad():
        for layer in layers:
            layer.weight.copy_(layer.weight.transpose(2, 3).clone())
    return finetune(task)


def convolutions(model: nn.Module) -> list[nn.Conv2d]:
    """The 2-d convolutions of `model`, in its own order."""
    return [layer for layer in model.modules() if isinstance(layer, nn.Conv2d)]
