"""Networks of other libraries, and those without batch norm, through all that is done with an original: attacked,
unlearned by every method, scored, written as an MLflow model and loaded back."""

import json

import numpy as np
import pytest
import torch

from amun_ray.attacks import AttackSettings, craft
from amun_ray.data.dataset import Dataset
from amun_ray.metrics import GAP_TERMS, RmiaSettings, Split, predict, score
from amun_ray.models import build, checkpoint
from amun_ray.tracking.saved import _load_pyfunc, saved_model
from amun_ray.training.augment import Augmentation
from amun_ray.training.modes import has_batch_norm
from amun_ray.training.parts import place
from amun_ray.training.recipe import Recipe
from amun_ray.unlearn import METHODS, RunReport, Sets, copy_model, unlearn

SMALL_VIT = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16,
             "patch_size": 8}
NETWORKS = [  # name, options, whether it has batch norm
    ("timm:test_resnet", {}, True), ("timm:test_vit", {}, False),
    ("timm:test_convnext", {"drop_path_rate": 0.2}, False), ("transformers:vit", SMALL_VIT, False),
    ("vit", {"width": 16, "depth": 1, "heads": 2, "patch": 8}, False)]
RNG = np.random.default_rng(0)
DATA = Dataset("noise", RNG.integers(0, 256, (24, 3, 32, 32), dtype=np.uint8), np.arange(24) % 3, 20, 3)
FORGET, RETAIN = np.arange(4), np.arange(4, 20)


@pytest.fixture(params=NETWORKS, ids=lambda network: network[0])
def network(request):
    """A description, as `models.build` takes it, and whether there is batch norm."""
    name, options, batch_norm = request.param
    for library in ("timm", "transformers"):
        if name.startswith(library):
            pytest.importorskip(library)
    mean, std = DATA.statistics
    return {"name": name, "options": options, "channels": 3, "classes": 3, "size": 32, "mean": mean,
            "std": std}, batch_norm


def part(rows, augment=True):
    return place(DATA.pixels[rows], DATA.labels[rows], augment=augment)


def test_every_network_is_attacked_unlearned_by_each_method_scored_and_loaded_back(network, tmp_path):
    description, batch_norm = network
    model = build(**description, seed=0)
    with torch.no_grad():
        for _ in range(10 * batch_norm):  # statistics of the data, not those of no data
            model(torch.from_numpy(DATA.pixels).float() / 255)
    model.eval()
    assert has_batch_norm(model) == batch_norm
    images = torch.from_numpy(DATA.pixels[FORGET]).float() / 255
    with torch.no_grad():
        said = model(images).argmax(1)
    rows = craft(model, images, said, settings=AttackSettings(steps=20))
    assert 0 <= rows.image.min() <= rows.image.max() <= 1
    assert rows.kept.any()
    with torch.no_grad():
        assert (model(torch.from_numpy(rows.image)).argmax(1).numpy() == rows.label).all()
    assert (rows.label[rows.kept] != said.numpy()[rows.kept]).all()
    sets = Sets(retain=part(RETAIN), forget=part(FORGET),
                adversarial=place(rows.image[rows.kept], rows.label[rows.kept], augment=False))
    before = checkpoint.digest(model)
    for name, method in METHODS.items():
        made, report = copy_model(model), RunReport()
        epochs = unlearn(name, made, sets, recipe=Recipe(lr=1e-3, epochs=1, batch_size=10, optimizer="adamw"),
                         augmentation=Augmentation(flip=True), generator=torch.Generator().manual_seed(0),
                         settings={"steps": 2, "scale": 100} if name == "certified" else None, report=report)
        assert list(epochs) == [1], name
        assert checkpoint.digest(made) != before == checkpoint.digest(model), name
        assert all(tensor.isfinite().all() for tensor in made.state_dict().values()), name
        if name == "salun":
            moved = sum((one != other).sum().item() for one, other in zip(made.parameters(), model.parameters(),
                                                                            strict=True))
            assert 0 < moved <= round(0.5 * sum(weight.numel() for weight in model.parameters()))
        assert method.run is None or ("batch norm" in report.certificate.reason) == batch_norm
    logits = predict(made, torch.from_numpy(DATA.pixels)).numpy()
    scores = score(logits, DATA.labels, Split.of(FORGET, labels=DATA.labels, train_size=20), np.full(24, 1 / 3),
                   settings=RmiaSettings())
    assert all(0 <= scores[term] <= 100 for term in GAP_TERMS)
    for path, content in saved_model(description, checkpoint.save(made, {}), (3, 32, 32)).items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(content)
    library, colon, _ = description["name"].partition(":")
    assert (f"\n{library}==" in (tmp_path / "requirements.txt").read_text()) == bool(colon)
    assert json.loads((tmp_path / "model.json").read_text())["name"] == description["name"]
    loaded = _load_pyfunc(str(tmp_path)).predict(DATA.pixels.astype(np.float32) / 255)
    np.testing.assert_allclose(loaded, logits, atol=1e-6)  # its weights have another memory order, so sums may differ


@pytest.mark.parametrize(("name", "options"), [
    ("timm:test_convnext", {"drop_path_rate": 0.5}),
    ("vit", {"width": 16, "depth": 1, "heads": 2, "patch": 8, "dropout": 0.5}),
    ("transformers:vit", SMALL_VIT | {"hidden_dropout_prob": 0.5})])
def test_what_layers_drop_follows_the_seed_of_the_training_alone(name, options):
    pytest.importorskip(name.partition(":")[0] if ":" in name else "torch")
    mean, std = DATA.statistics
    model = build(name, channels=3, classes=3, size=32, mean=mean, std=std, seed=0, options=options)

    def trained(seed, disturbed):
        torch.manual_seed(disturbed)
        made = copy_model(model)
        sets = Sets(retain=part(RETAIN), forget=part(FORGET), adversarial=None)
        for _ in unlearn("finetune", made, sets, recipe=Recipe(lr=0.1, epochs=1, batch_size=16),
                         augmentation=Augmentation(), generator=torch.Generator().manual_seed(seed)):
            pass
        return checkpoint.digest(made)
    assert trained(0, disturbed=1) == trained(0, disturbed=2)
    assert trained(0, disturbed=1) != trained(1, disturbed=1)
