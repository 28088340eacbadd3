"""docs/config.md and tune_configs/schema.json are current, and an editor judges a config as the command does."""

import importlib.util
import json
import re
from pathlib import Path

import jsonschema
import pytest
import yaml

from amun_ray.config.file import load as load_config
from amun_ray.config.yaml_text import parse
from amun_ray.sweep import main

REPOSITORY = Path(__file__).resolve().parent.parent
CONFIGS = sorted((REPOSITORY / "tune_configs").rglob("*.yaml"))


@pytest.fixture(scope="module")
def reference():
    spec = importlib.util.spec_from_file_location("reference", REPOSITORY / "docs" / "reference.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def validator():
    schema = json.loads((REPOSITORY / "tune_configs" / "schema.json").read_text())
    return jsonschema.Draft202012Validator(schema)


def test_page_and_schema_are_current(reference):
    stale = [path.name for path, content in reference.files().items() if path.read_text() != content]
    assert stale == [], "run: python docs/reference.py"


def test_every_key_has_one_sentence(reference):
    schema = reference.json_schema()
    keys = {f"{name}.{key}": node.get("description", "") for name, section in
            [("Sweep", schema), *schema["$defs"].items()] for key, node in section["properties"].items()}
    assert len(keys) > 80
    assert [key for key, text in keys.items() if not re.fullmatch(r"[A-Za-z`][^\n|]+\.", text)] == []


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_shipped_configs_name_the_schema_and_fit_it(path, validator):
    text = path.read_text()
    assert text.startswith("# yaml-language-server: $schema=")
    named = path.parent / text.splitlines()[0].partition("$schema=")[2]
    assert named.resolve() == REPOSITORY / "tune_configs" / "schema.json"
    assert [error.message for error in validator.iter_errors(parse(text))] == []


@pytest.mark.parametrize("change", [
    {"seeed": 1}, {"search": {"trails": 3}}, {"search": {"trials": 0}}, {"data": {"name": "digit"}},
    {"methods": {"amunn": None}}, {"training": {"lr": 0, "epochs": 1}}, {"training": {"lr": 0.1}},
    {"training": {"recipe": "slow"}}, {"attack": {"search": {"gamma": 1.5}}}, {"resources": {"gpus": "all"}},
    {"training": {"recipe": "fast", "epocs": 3}}])
def test_what_the_command_refuses_the_editor_marks(change, validator, tmp_path):
    content = parse((REPOSITORY / "tune_configs" / "default.yaml").read_text()) | change
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(content))
    assert list(validator.iter_errors(content))
    with pytest.raises(ValueError, match="mine.yaml: "):
        load_config(str(path))


@pytest.mark.parametrize("change", [
    {"training": {"recipe": "fast", "epochs": 3}}, {"resources": {"gpus": "auto"}}, {"resources": {"gpus": 0.5}},
    {"model": {"name": "small_cnn", "options": {"width": 4}}}, {"search": {"trials": 3, "concurrent": None}}])
def test_what_the_command_takes_the_editor_takes(change, validator, tmp_path):
    content = parse((REPOSITORY / "tune_configs" / "default.yaml").read_text()) | change
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(content))
    assert load_config(str(path)).name == "digits"
    assert [error.message for error in validator.iter_errors(content)] == []


def test_help_points_to_the_page(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "docs/config.md" in capsys.readouterr().out
