"""What benchmarks/adversaries.py attacks: CIFAR-10 images, and a ResNet-8 that has memorised them."""

from pathlib import Path

import claims  # noqa: F401, the package is used in place
import numpy as np
import torch
from torch import nn

from amun_ray import data, models
from amun_ray.base.progress import bar
from amun_ray.base.seeds import generator
from amun_ray.models import checkpoint
from amun_ray.training.augment import Augmentation
from amun_ray.training.loop import fit
from amun_ray.training.parts import place
from amun_ray.training.recipe import Recipe

TRAINED_ON, SEED = 8000, 0


def load_images(folder: Path) -> data.Dataset:
    """The images that the model is trained on, and a few of the test set."""
    return data.load("parquet", train=folder / "cifar10-train.parquet", test=folder / "cifar10-test.parquet",
                     train_size=TRAINED_ON, test_size=1000, seed=SEED)


def trained(images: data.Dataset, path: Path, device: torch.device) -> nn.Module:
    """A ResNet-8 that has memorised its training set; read from `path`, or trained and written there."""
    pixels = images.pixels[images.train_rows].astype(np.float32) / 255
    model = models.build("resnet20", channels=3, classes=10, size=32, mean=pixels.mean((0, 2, 3)).tolist(),
                         std=pixels.std((0, 2, 3)).tolist(), seed=SEED, options={"blocks": 1}).to(device)
    if path.is_file():
        checkpoint.load_into(model, path)
        return plain(model)
    recipe = Recipe(lr=0.3, epochs=40, schedule="one_cycle", precision="float32")
    part = place(images.pixels[images.train_rows], images.labels[images.train_rows], augment=False, device=device)
    with bar("training the model", recipe.epochs, "epochs") as progress:
        for _ in fit(model, [part], recipe=recipe, augmentation=Augmentation(), generator=generator(SEED, "model")):
            progress.advance()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(checkpoint.save(model, {"trained_on": str(TRAINED_ON)}))
    return plain(model)


def plain(model: nn.Module) -> nn.Module:
    """The model as a user has it: eval mode, weights in the layout (N, C, H, W), which torchattacks asks for."""
    return model.eval().to(memory_format=torch.contiguous_format)
