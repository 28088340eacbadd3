"""One forward pass: eval mode, mode restored, the same numbers whatever the batch size and the form of the pixels."""

import pytest
import torch
from torch import nn

from amun_ray.base.errors import Diverged, UserError
from amun_ray.base.tensors import evaluating
from amun_ray.metrics import predict


@pytest.fixture
def model():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Flatten(), nn.Linear(4 * 6 * 6, 5)
        )


@pytest.fixture
def pixels():
    return torch.randint(0, 256, (11, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def test_equals_the_model_in_eval_mode(model, pixels):
    expected = model.eval()(pixels.float() / 255).detach()
    model.train()
    logits = predict(model, pixels, batch_size=4)
    assert logits.dtype == torch.float32
    assert logits.shape == (11, 5)
    torch.testing.assert_close(logits, expected)
    torch.testing.assert_close(predict(model, pixels.float() / 255, batch_size=100), expected)
    torch.testing.assert_close(predict(model, pixels, batch_size=1), expected)


@pytest.mark.parametrize("batch_size", [2, 100])
def test_chosen_rows_alone_are_predicted_in_their_order(model, pixels, batch_size):
    rows = torch.tensor([9, 0, 4])
    torch.testing.assert_close(predict(model, pixels, rows, batch_size=batch_size), predict(model, pixels)[rows])
    seen = []
    model.register_forward_pre_hook(lambda module, given: seen.append(len(given[0])))
    predict(model, pixels, rows, batch_size=100)
    assert seen == [3]


def test_leaves_weights_and_modes_as_they_were(model, pixels):
    model.train()
    model[1].eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    predict(model, pixels)
    assert [module.training for module in model] == [True, False, True, True, True]
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_modes_are_restored_after_an_error(model):
    model.train()
    with evaluating(model):
        assert not model[1].training
    with pytest.raises(ZeroDivisionError), evaluating(model):
        raise ZeroDivisionError
    assert model.training
    assert model[1].training


def test_bfloat16_is_near_float32(model, pixels):
    torch.testing.assert_close(predict(model, pixels, precision="bfloat16"), predict(model, pixels), atol=0.05, rtol=0)


def test_a_model_without_weights_works(pixels):
    assert predict(nn.Flatten(), pixels).shape == (11, 192)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"precision": "float16"}, "precision must be one of"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"images": torch.zeros(0, 3, 8, 8)}, "N >= 1"),
        ({"rows": torch.empty(0, dtype=torch.int64)}, "rows: at least one"),
        ({"images": torch.zeros(3, 8, 8)}, "N, C, H, W"),
        ({"images": torch.full((1, 3, 8, 8), 255.0)}, r"^images: .*\[0, 1\]"),
        ({"images": torch.zeros(1, 3, 8, 8, dtype=torch.int64)}, "uint8"),
    ],
)
def test_refuses(model, pixels, change, message):
    with pytest.raises(UserError, match=message):
        predict(model, **{"images": pixels, **change})


def test_logits_that_are_not_finite_count_as_divergence(model, pixels):
    with torch.no_grad():
        model[-1].bias.fill_(float("nan"))
    with pytest.raises(Diverged, match="11 of 11"):
        predict(model, pixels)
