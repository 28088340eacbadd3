"""The documentation is true: its worked example runs, its links resolve, every row of a table is described."""

import re
from pathlib import Path

import pytest

import amun_ray
from amun_ray.attacks import ATTACKS
from amun_ray.unlearn import METHODS

REPOSITORY = Path(__file__).resolve().parent.parent
PAGES = sorted([*REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").glob("*.md")])


def test_the_worked_example_of_a_method_teaches_the_class_after_the_true_one(tmp_path, monkeypatch):
    (code,) = re.findall(r"```python\n(.*?)```", (REPOSITORY / "CONTRIBUTING.md").read_text(), re.S)
    (tmp_path / "next_label.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("AMUN_ALLOW_CODE", "next_label")
    data, forget = amun_ray.load_data("digits", train_size=200), [3, 14, 15, 92, 65, 35, 89, 79]
    original = amun_ray.train(data, "small_cnn", options={"width": 8}, epochs=3, batch_size=32)
    made = amun_ray.unlearn("next_label:METHOD", original, data, forget, access="forget_only", lr=0.05, epochs=60)
    import torch
    said = made(torch.from_numpy(data.pixels[forget]).float() / 255).argmax(1)
    assert said.tolist() == ((data.labels[forget] + 1) % 10).tolist()


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_links_of_pages_lead_to_files(page):
    links = re.findall(r"\]\(([^)\s]+)\)", re.sub(r"```.*?```", "", page.read_text(), flags=re.S))
    files = [link.partition("#")[0] for link in links if not re.match(r"[a-z]+:|#", link)]
    assert [file for file in files if not (page.parent / file).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_includes_of_pages_find_their_ends(page):
    for file, options in re.findall(r"```\{include\} (\S+)\n(.*?)```", page.read_text(), re.S):
        text = (page.parent / file).read_text()
        ends = re.findall(r':(?:start-after|end-before): "(.*)"', options)
        assert [text.count(end) >= 1 for end in ends] == [True] * len(ends), f"{page.name} includes {file}"


def test_every_method_and_attack_is_described():
    page = (REPOSITORY / "docs" / "methods.md").read_text()
    assert [name for name in [*METHODS, *ATTACKS] if f"| `{name}` |" not in page] == []
    for name, row in METHODS.items():
        access = {frozenset({"retain"}): "D_R", frozenset({"forget_only"}): "D_F"}.get(row.access, "both")
        assert f"| `{name}` | {access} |" in page
