"""One training by several processes: shares of each batch, and the model that one process makes, by gloo on CPUs."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from amun_ray.base.errors import UserError
from amun_ray.base.seeds import generator
from amun_ray.models import build
from amun_ray.training.augment import Augmentation
from amun_ray.training.group import ALONE, Group
from amun_ray.training.loop import fit
from amun_ray.training.parts import Part
from amun_ray.training.recipe import Recipe

TOTAL, RECIPE = 31, Recipe(lr=0.05, epochs=3, clip=1.0, batch_size=15)  # batches of 15 and 16: the shares are unequal


def trained(group):
    """The weights after a training on random images."""
    torch.set_num_threads(1)
    draw = torch.Generator().manual_seed(0)
    images = torch.randint(256, (TOTAL, 1, 8, 8), dtype=torch.uint8, generator=draw)
    part = Part(images, torch.randint(10, (TOTAL,), generator=draw), True, torch.arange(TOTAL))
    net = build("vit", channels=1, classes=10, size=8, mean=(0.3,), std=(0.4,), seed=3,
                options={"patch": 4, "width": 12, "depth": 1})
    for _ in fit(net, [part], recipe=RECIPE, augmentation=Augmentation(crop=1), generator=generator(3, "order"),
                 group=group):
        pass
    return net.state_dict()


def test_two_processes_make_the_model_that_one_makes(tmp_path):
    two = [subprocess.Popen([sys.executable, __file__, str(rank), str(tmp_path)],
                            env={"PYTHONPATH": str(Path(__file__).parents[2])}) for rank in range(2)]
    alone = trained(ALONE)
    assert [process.wait() for process in two] == [0, 0]
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    for name, tensor in alone.items():
        assert torch.equal(first[name], second[name]), name
        torch.testing.assert_close(first[name], tensor, atol=2e-6, rtol=1e-5)


def test_batch_norm_on_several_cpus_is_refused():
    with pytest.raises(UserError, match="batch norm can be trained on several GPUs, but not on several CPUs"):
        Group(0, 2).joined(nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)))


@pytest.mark.parametrize("size", [2, 3, 4])
def test_shares_are_of_each_batch_and_together_all_of_it(size):
    batches, found = [15, 15, 2], [[] for _ in range(3)]
    for rank in range(size):
        places, sizes = Group(rank, size).share(batches)
        assert len(places) == sum(sizes)
        for number, mine in enumerate(places.split(sizes)):
            found[number] += mine.tolist()
            assert abs(len(mine) - batches[number] / size) < 1
    assert found == [[*range(15)], [*range(15, 30)], [30, 31]]


def test_shares_of_a_mean_have_the_mean_of_the_whole_batch():
    losses = torch.tensor([1.0, 2.0, 6.0])
    parts = [losses[:1], losses[1:]]
    scaled = [Group(rank, 2).scaled(part.mean(), len(part), 3) for rank, part in enumerate(parts)]
    assert torch.stack(scaled).mean() == losses.mean()


if __name__ == "__main__":
    rank, folder = int(sys.argv[1]), Path(sys.argv[2])
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder / 'met'}", rank=rank, world_size=2)
    torch.save(trained(Group(rank, 2)), folder / f"{rank}.pt")
