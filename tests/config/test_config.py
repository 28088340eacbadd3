"""A config is complete and valid before any work starts; its errors are reported together, one line each."""

import sys
import warnings
from pathlib import Path

import pytest
import yaml

from amun_ray.attacks import ATTACKS
from amun_ray.base.errors import UserError
from amun_ray.config import file as config_file
from amun_ray.config.schema import Sweep, accesses
from amun_ray.config.yaml_text import parse
from amun_ray.models import MODELS
from amun_ray.unlearn import METHODS, Contender
from amun_ray.work.plan import given_points

SHIPPED = sorted(config_file.REPOSITORY.glob("*.yaml"))
PLAIN = """
name: mine
data: {name: digits, train_size: 300}
model: {name: small_cnn}
training: {epochs: 2, lr: 1e-1}
forget: {fraction: 0.1}
methods:
  finetune:
  amun:
"""


@pytest.fixture(autouse=True)
def _own_code(monkeypatch):
    monkeypatch.setenv("AMUN_ALLOW_CODE", "nowhere, os, os.path,broken")


@pytest.fixture
def mine(tmp_path) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text(PLAIN)
    return path


def test_a_whole_number_of_gpus_is_dumped_without_a_warning(mine):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert config_file.load(str(mine), ["resources.gpus=2"]).model_dump()["resources"]["gpus"] == 2


def mistakes(path: Path, *overrides: str) -> list[str]:
    """The lines of the error that loading `path` raises, without the source that each begins with."""
    with pytest.raises(UserError) as caught:
        config_file.load(str(path), list(overrides))
    return [line.removeprefix("--set: ").removeprefix(f"{path} with --set: ").removeprefix(f"{path}: ")
            for line in str(caught.value).split("\n")]


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_shipped_config_loads_by_name_and_says_what_it_does(path):
    sweep = config_file.load(path.stem)
    assert sweep.contenders
    header = path.read_text().partition("\nname:")[0]
    assert "python amun_ray/sweep.py" in header or "ray submit" in header


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_shipped_comparison_treats_batch_norm_alike_in_every_method(path):
    """All methods that pass over D_F by itself search what their batch norm does there, or none does."""
    sweep = config_file.load(path.stem)
    searched = {contender: "forget_statistics" in sweep.space(contender) for contender in sweep.contenders
                if "forget_statistics" in METHODS[contender.method].settings_in(contender.access)}
    assert len(set(searched.values())) <= 1, searched


def test_the_default_is_there_and_is_digits():
    assert config_file.load("default").data.name == "digits"


def test_a_minimal_config_gets_the_defaults_of_the_schema(mine):
    sweep = config_file.load(str(mine))
    assert sweep.search.trials == 20
    assert sweep.training.lr == 0.1  # 1e-1, which YAML 1.1 reads as a text
    assert sweep.contenders == [("finetune", "retain"), ("amun", "retain"), ("amun", "forget_only")]


def test_the_range_of_learning_rates_is_that_of_the_optimiser_unless_given(mine):
    def rates(*overrides: str) -> tuple[float, float]:
        lr = config_file.load(str(mine), list(overrides)).search.lr
        return lr.low, lr.high

    adamw = "unlearning.optimizer=adamw"
    assert rates() == (1e-6, 1e-1)
    assert rates(adamw) == rates(adamw, "search.trials=12") == (1e-6, 1e-3)
    assert rates(adamw, "search.lr.low=1e-5") == (1e-5, 1e-3)
    assert rates(adamw, "search.lr.high=0.5") == (1e-6, 0.5)
    assert mistakes(mine, adamw, "search.lr.low=0.01") == [
        "search: lr.low <= lr.high must hold, which with adamw are 1e-06 and 0.001 unless given, but got low=0.01, "
        "high=0.001"]
    assert mistakes(mine, "unlearning.optimizer=adam") == [
        "unlearning.optimizer: must be 'sgd' or 'adamw', but got 'adam'"]


def test_so_is_that_of_one_method_where_only_one_bound_is_given(mine):
    def rates(*overrides: str) -> dict[str, tuple[float, float]]:
        sweep = config_file.load(str(mine), ["methods={finetune: {lr: {low: 1e-5}}, amun: {lr: {high: 1e-2}}}",
                                             *overrides])
        return {each.method: (sweep.space(each)["lr"].low, sweep.space(each)["lr"].high) for each in sweep.contenders}

    adamw = "unlearning.optimizer=adamw"
    assert rates() == {"finetune": (1e-5, 1e-1), "amun": (1e-6, 1e-2)}
    assert rates(adamw) == {"finetune": (1e-5, 1e-3), "amun": (1e-6, 1e-2)}
    assert mistakes(mine, adamw, "methods.finetune={lr: {low: 0.01}}") == [
        "methods.finetune: lr.low <= lr.high must hold, which with adamw are 1e-06 and 0.001 unless given, but got "
        "low=0.01, high=0.001"]


def test_a_method_may_have_other_learning_rates_with_d_f_alone(mine):
    def rates(lr, *overrides):
        sweep = config_file.load(str(mine), [f"methods={{amun: {{lr: {lr}}}}}", *overrides])
        return {each.access: (sweep.space(each)["lr"].low, sweep.space(each)["lr"].high) for each in sweep.contenders}

    assert rates("{low: 1e-3, forget_only: {high: 1e-3}}") == {"retain": (1e-3, 1e-1), "forget_only": (1e-6, 1e-3)}
    assert rates("{forget_only: {low: 1e-4}}", "unlearning.optimizer=adamw") == {
        "retain": (1e-6, 1e-3), "forget_only": (1e-4, 1e-3)}
    assert mistakes(mine, "methods={amun: {lr: {forget_only: {low: 0.01}}}}", "unlearning.optimizer=adamw") == [
        "methods.amun.lr.forget_only: lr.low <= lr.high must hold, which with adamw are 1e-06 and 0.001 unless given, "
        "but got low=0.01, high=0.001"]
    for methods in ("{finetune: {lr: {forget_only: {low: 1e-4}}}}",
                    "{finetune: {access: [retain], lr: {forget_only: {low: 1e-4}}}}"):
        assert mistakes(mine, f"methods={methods}") == [
            "methods.finetune.lr.forget_only: finetune is not searched with 'forget_only' access"]


def test_the_recipe_for_public_weights(mine):
    recipe = config_file.load(str(mine), ["training={recipe: finetune, epochs: 3}"]).training
    assert (recipe.optimizer, recipe.schedule, recipe.epochs) == ("adamw", "cosine", 3)
    assert 0 < recipe.warm_up < recipe.epochs


UNKNOWN_KEYS = [
    ("serch.trials=3", "serch: unknown key; did you mean 'search'?"),
    ("search.trails=3", "search.trails: unknown key; did you mean 'trials'?"),
    ("search.lr.lo=1", "search.lr.lo: unknown key; did you mean 'low'?"),
    ("training.recpie=fast", "training.recpie: unknown key; did you mean 'recipe'?"),
    ("training.epoch=1", "training.epoch: unknown key; did you mean 'epochs'?"),
    ("attack.search.stps=3", "attack.search.stps: unknown key; did you mean 'steps'?"),
    ("attack.shard_sise=3", "attack.shard_sise: unknown key; did you mean 'shard_size'?"),
    ("methods.amun.serch=[]", "methods.amun.serch: unknown key; did you mean 'search'?"),
    ("rmia.gama=3", "rmia.gama: unknown key; did you mean 'gamma'?"),
    ("data.trian=x", "data.trian: unknown key; did you mean 'train'?"),
    ("tracking.zzz=x", "tracking.zzz: unknown key. Known: uri, experiment, models"),
]
WRONG_TYPES = [
    ("search.trials=many", "search.trials: must be a valid integer, but got 'many'"),
    ("search.trials=2.5", "search.trials: must be a valid integer, but got 2.5"),
    ("search.trials=true", "search.trials: must be a valid integer, but got True"),
    ("search.trials='3'", "search.trials: must be a valid integer, but got '3'"),
    ("training=fast", "training: must be a mapping, but got 'fast'"),
    ("training={recipe: fast, epochs: 2.5}", "training.epochs: must be a valid integer, but got 2.5"),
    ("training.lr=fast", "training.lr: must be a valid number, but got 'fast'"),
    ("data.flip=1", "data.flip: must be a valid boolean, but got 1"),
    *((f"data.random_resized_crop={value}", "data.random_resized_crop: must be two numbers, 0 < low <= high <= 1, but "
       f"got {shown}") for value, shown in (("0.3", "0.3"), ("[0, 1]", "[0, 1]"), ("[1, 0.3]", "[1, 0.3]"),
                                            ("[0.3]", "[0.3]"), ("[a, b]", "['a', 'b']"))),
    ("data={name: digits, crop: 1, random_resized_crop: [0.3, 1]}",
     "data: crop and random_resized_crop both cut; give one of them"),
    ("search.lr=3", "search.lr: must be a mapping, but got 3"),
    ("model=resnet20", "model: must be a mapping, but got 'resnet20'"),
    ("methods=[amun]", "methods: must be a mapping, but got ['amun']"),
    ("methods.amun=3", "methods.amun: must be a mapping, but got 3"),
    ("methods.amun={access: retain}", "methods.amun.access: must be a list, but got 'retain'"),
    ("originals.checkpoints=a", "originals.checkpoints: must be a list, but got 'a'"),
    ("name=7", "name: must be a valid string, but got 7"),
    ("model.options={width: wide}", "model: model 'small_cnn': the setting 'width' must be int, found 'wide'"),
    ("forget=", "forget: must be a mapping, but got None"),
]
OUT_OF_RANGE = [
    ("audit.autoattack={eps: 8}",
     "audit.autoattack: eps must be below 1 in Linf, since pixels lie in [0, 1], but got 8; 8/255 may be meant"),
    ("audit.autoattack={norm: L1, eps: 8/255}", "audit.autoattack.norm: must be 'Linf' or 'L2', but got 'L1'"),
    *((f"audit.autoattack={{eps: {eps}}}",
       f"audit.autoattack.eps: must be a number above 0, or a fraction such as 8/255, but got {shown}")
      for eps, shown in (
           ("0", "0"), ("-0.1", "-0.1"), ("0/255", "0.0"), ("8/0", "'8/0'"), ("-8/255", "'-8/255'"), ("true", "True"))),
    ("search.trials=0", "search.trials: must be greater than 0, but got 0"),
    ("training.epochs=0", "training: epochs must be >= 1, but got 0"),
    ("training.schedule=linear", "training.schedule: must be 'step', 'one_cycle' or 'cosine', but got 'linear'"),
    ("forget.fraction=0", "forget.fraction: must be greater than 0, but got 0"),
    ("forget.fraction=1.5", "forget.fraction: must be less than 1, but got 1.5"),
    ("forget.fraction=0.6", "forget.fraction: must be at most 0.5, or every held-out forget set of that size overlaps "
                            "the final ones, but got 0.6"),
    ("search.lr={low: 1, high: 0.5}", "search.lr: low <= high must hold, but got low=1, high=0.5"),
    ("search.schedules=[evry_1]",
     "search.schedules.0: must be never or every_N (times 0.1 every N epochs), but got 'evry_1'"),
    ("search.schedules=[]", "search.schedules: at least one is needed, but it is empty"),
    ("references.count=5", "references.count: must be a multiple of 2, but got 5"),
    ("references.count=2", "references.count: must be greater than or equal to 4, but got 2"),
    ("unlearning.batch_size=1", "unlearning.batch_size: must be greater than or equal to 2, but got 1"),
    ("unlearning.momentum=1", "unlearning.momentum: must be less than 1, but got 1"),
    ("final.reference=salun", "final: reference (salun) must be one of the methods: finetune, amun"),
    ("final.compared=[salun]", "final: compared (salun) must be one of the methods: finetune, amun"),
    ("final.compared=[amun]", "final: compared must name at least one method other than the reference"),
    ("held_out.originals=3", "held_out: originals (3) must not exceed originals.count (1)"),
    ("originals.checkpoints=['run:/1/model']", "originals.checkpoints.0: must be a path or an MLflow address "
     "(runs:/, models:/, mlflow-artifacts:/), but got 'run:/1/model'"),
    ("originals.checkpoints=[a, b]", "originals: count (1) must be the number of checkpoints (2)"),
    ("forget={fraction: 0.1, indices: a.csv}", "forget: give one of fraction, folds, indices, classes, column, "
                                               "pattern, files, but got fraction and indices; --set 'forget={...}' "
                                               "takes the place of the whole section"),
    ("forget={}", "forget: give one of fraction, folds, indices, classes, column, pattern, files, but got none of "
                  "them"),
    ("forget={folds: 1}", "forget.folds: must be greater than or equal to 2, but got 1"),
    ("forget={folds: 5, sets: 2}", "forget: every fold counts that held_out.sets leaves: sets must not be given, "
                                   "but is 2"),
    ("forget={column: person}", "forget: column and values belong together, but got column alone"),
    ("forget={indices: a.csv, values: [1]}", "forget: column and values belong together, but got values alone"),
    ("forget={classes: [3], sets: 2}", "forget: classes names one forget set, but sets is 2"),
    ("forget={classes: 3}", "forget.classes: must be a list of names and numbers, but got 3"),
    ("forget={classes: []}", "forget.classes: must be a list of names and numbers, but got []"),
    ("forget={classes: [true]}", "forget.classes: must be a list of names and numbers, but got [True]"),
    ("forget={column: person, values: 3}", "forget.values: must be a list of texts, integers or truth values, or the "
                                           "file that lists them, but got 3"),
    ("forget={column: person, values: [1.5]}", "forget.values: must be a list of texts, integers or truth values, or "
                                               "the file that lists them, but got [1.5]"),
    ("forget={indices: a.csv, sets: 2}", "forget: indices names one forget set, but sets is 2"),
    ("rmia.gamma=-1", "rmia: gamma must be positive, got -1.0"),
    ("attack.search={name: pgd_l2, steps: 0}",
     "attack.search: attack 'pgd_l2': steps must be >= 1, but got 0"),
    ("name=a b", "name: must be of letters, digits, _, . and -, but got 'a b'"),
    ("tracking.models=some", "tracking.models: must be 'all' or 'final', but got 'some'"),
    ("tracking.uri=''", "tracking.uri: string should have at least 1 character, but got ''"),
    ("methods={}", "methods: at least one is needed, but it is empty"),
    ("methods.amun={access: []}", "methods.amun.access: at least one is needed, but it is empty"),
    ("methods.amun={access: [retain, retain]}",
     "methods.amun.access: each may be given once, but got retain, retain"),
    ("methods.finetune={access: [forget_only]}",
     "methods.finetune.access: finetune does not exist with 'forget_only', only with retain"),
    ("methods.amun={access: [retain], settings: {forget_statistics: 1}}",
     "methods.amun.settings.forget_statistics: 'forget_statistics' has no effect on amun with 'retain' access, only "
     "with 'forget_only'"),
    ("methods.salun={access: [retain], search: [mask_ratio, forget_statistics]}",
     "methods.salun.search: 'forget_statistics' has no effect on salun with 'retain' access, only with 'forget_only'"),
    ("methods.salun={settings: {mask_ratio: 0}}", "methods.salun.settings.mask_ratio: must be > 0, but got 0.0"),
    ("methods.salun={settings: {mask_ratio: 1.1}}", "methods.salun.settings.mask_ratio: must be <= 1, but got 1.1"),
    ("training.lr=0", "training: lr must be > 0, but got 0.0"),
    ("search.lr.low=0", "search.lr.low: must be greater than 0, but got 0"),
    ("search.epochs=0", "search.epochs: must be greater than 0, but got 0"),
    ("methods.l1_sparse={settings: {alpha: -1}}", "methods.l1_sparse.settings.alpha: must be >= 0, but got -1.0"),
]
HUGE = 10**9
TOO_MANY = [
    *((f"{key}={HUGE}", f"{key}: must be less than or equal to {most}, but got {HUGE}") for key, most in (
        ("originals.count", 10000), ("forget.sets", 1000), ("held_out.sets", 1000), ("held_out.originals", 10000),
        ("references.count", 10000), ("search.trials", 10000), ("search.grid.lr", 10000), ("search.grid.own", 10000),
        ("search.epochs", 1000), ("final.runs", 10000), ("unlearning.batch_size", 1000000), ("data.classes", 100000),
        ("resources.threads", 1024))),
    (f"training.epochs={HUGE}", f"training: epochs must be <= 1e+06, but got {HUGE}"),
    (f"training.batch_size={HUGE}", f"training: batch_size must be <= 1e+06, but got {HUGE}"),
    *((f"attack.search={{name: {name}, {key}: {HUGE}}}",
       f"attack.search: attack {name!r}: {key} must be <= {most}, but got {HUGE}") for name, key, most in (
        ("pgd_l2", "steps", "1e+06"), ("pgd_l2", "batch_size", "1e+06"), ("pgd_l2", "doublings", "100"),
        ("pgd_l2", "shrink", "100"), ("nearest", "polish", "1e+06"))),
    ("originals.count=100\nforget.sets=34",
     "originals.count x forget.sets x final.runs must be at most 10,000, but is 10,200"),
    ("forget={folds: 5}\nheld_out.sets=5", "held_out: sets (5) must be less than forget.folds (5): one fold counts "
                                           "at least"),
    ("originals.count=100\nforget={folds: 41}\nheld_out.sets=7",
     "originals.count x final folds x final.runs must be at most 10,000, but is 10,200"),
    ("originals.count=101\nheld_out={sets: 100, originals: 101}",
     "held_out.sets x held_out.originals must be at most 10,000, but is 10,100"),
    ("search={sampler: grid, grid: {lr: 3334}}",
     "search.grid: must have at most 10,000 places, but for finetune it has 10,002"),
    ("methods={salun: {search: [mask_ratio]}}\nsearch={sampler: grid, grid: {lr: 1, own: 3334}}",
     "search.grid: must have at most 10,000 places, but for salun it has 10,002"),
    ("resources.gpus=1e-300", "resources.gpus: must be 0, a number of at least 0.0001, or auto, but got 1e-300"),
    ("resources.cpus=1e-300", "resources.cpus: must be greater than or equal to 0.0001, but got 1e-300"),
]
UNKNOWN_NAMES = [
    ("methods.amnu=", f"methods.amnu: unknown method 'amnu'; did you mean 'amun'? Known: {', '.join(sorted(METHODS))}"),
    ("methods={amun: , retrain: }", "methods.retrain: 'retrain' is no method to ask for: every sweep makes these "
     "models, and every table has their row; remove this line"),
    ("training={recipe: fsat}",
     "training: unknown recipe 'fsat'; did you mean 'fast'? Known: fast, finetune, paper, trades"),
    ("model.name=smal_cnn", "model.name: unknown model 'smal_cnn'; did you mean 'small_cnn'? "
                            f"Known: {', '.join(sorted(MODELS))}"),
    ("data.name=digist", "data.name: unknown dataset 'digist'; did you mean 'digits'? "
                         "Known: cifar10, cifar100, digits, folder, huggingface, parquet"),
    ("attack.search.name=pgd_l3", "attack.search: unknown attack 'pgd_l3'; did you mean 'pgd_l2'? "
                                  f"Known: {', '.join(sorted(ATTACKS))}"),
    ("model.name=zzz", f"model.name: unknown model 'zzz'. Known: {', '.join(sorted(MODELS))}"),
    ("model.options={widht: 3}",
     "model: model 'small_cnn' has no setting 'widht'; did you mean 'width'? Its settings: width, batch_norm"),
    ("data.train=x",
     "data: dataset 'digits' has no setting 'train'; did you mean 'train_size'? Its settings: train_size, seed"),
    ("methods.l1_sparse={search: [alpah]}", "methods.l1_sparse.search: l1_sparse has no setting 'alpah'; did you mean "
                                            "'alpha'? Its settings: alpha, decay_epochs, compounded"),
    ("methods={'nowhere:METHOD': }", "methods.nowhere:METHOD: method 'nowhere:METHOD': module 'nowhere' cannot be "
     "imported: No module named 'nowhere'; install it, or put its folder on PYTHONPATH"),
    ("methods={'os.path:join': }", "methods.os.path:join: method 'os.path:join': an amun_ray.unlearn.Method is "
     "expected, found function"),
    ("model.name=os:nothing", "model.name: model 'os:nothing': module 'os' has no 'nothing'"),
    ("data={name: 'shutil:rmtree', options: {path: /}}", "data.name: dataset 'shutil:rmtree' is code, which runs only "
     "where you allow its module: add --allow-code shutil to the command, or set AMUN_ALLOW_CODE=shutil in the "
     "environment"),
    ("attack.search.name=torch.hub:load", "attack.search: attack 'torch.hub:load' is code, which runs only where you "
     "allow its module: add --allow-code torch.hub to the command, or set AMUN_ALLOW_CODE=torch.hub in the "
     "environment"),
]


WRONG_POINTS = [
    ("search.points=[{lr: 0.5, schedule: never}]",
     "search.points.0.lr: outside the search space: must be from 1e-06 to 0.1, but got 0.5"),
    ("search.points=[{lr: 0.1, schedule: never}, {lr: 0.1, schedule: every_2}]",
     "search.points.1.schedule: outside the search space: must be one of never, every_1, every_5, but got 'every_2'"),
    ("methods.salun={search: [mask_ratio], points: [{lr: 0.01, schedule: never, settings: {mask_ratio: 0.95}}]}",
     "methods.salun.points.0.settings.mask_ratio: outside the search space: must be from 0.1 to 0.9, but got 0.95"),
    ("methods.salun={points: [{lr: 0.01, schedule: never, settings: {mask_ratio: 0.5}}]}",
     "methods.salun.points.0.settings.mask_ratio: is not searched for salun, whose space is lr, schedule; "
     "name it in methods.salun.search"),
    ("search.points=[{lr: 0.01, schedule: never}, {lr: 0.01, schedule: never}]", "search.points.1: stands there twice"),
    ("search={trials: 1, points: [{lr: 0.01, schedule: never}, {lr: 0.02, schedule: never}]}",
     "search.trials: must be at least 2, the number of known-good points of a method, but got 1"),
    ("search.points=[{schedule: never}]", "search.points.0.lr: this key is required"),
    ("search.points=[{lr: 0.01, schedule: never, epoch: 3}]",
     "search.points.0.epoch: unknown key. Known: lr, schedule, settings"),
    ("search.sampler=tpee", "search.sampler: must be 'tpe', 'random' or 'grid', but got 'tpee'"),
    ("search.objective=gap", "search.objective: must be 'average_gap', 'proxy', 'both' or 'iam', but got 'gap'"),
    ("search.grid.lr=0", "search.grid.lr: must be greater than 0, but got 0"),
    ("resources.gpus=2.5", "resources.gpus: must be a whole number if it is above 1, but got 2.5"),
    ("resources.gpus=half", "resources.gpus: must be 0, a number of at least 0.0001, or auto, but got 'half'"),
    ("resources.gpus=true", "resources.gpus: must be 0, a number of at least 0.0001, or auto, but got True"),
    ("resources.gpus=-1", "resources.gpus: must be 0, a number of at least 0.0001, or auto, but got -1"),
    ("search.concurrent=0", "search.concurrent: must be greater than 0, but got 0"),
    ("search.together=0", "search.together: must be a whole number above 0, or auto, but got 0"),
]


def test_comparisons_need_a_method_to_compare_with():
    methods = "methods={finetune: {}, salun: {}}"
    with pytest.raises(UserError, match="compared needs a method to compare with, and amun is not among the methods"):
        config_file.load("default", [methods, "final.compared=[salun]"])
    final = config_file.load("default", [methods, "final.compared=[salun]", "final.reference=finetune"]).final
    assert (final.reference, final.compared) == ("finetune", ("salun",))


@pytest.mark.parametrize(("override", "line"), UNKNOWN_KEYS + WRONG_POINTS + WRONG_TYPES + OUT_OF_RANGE + UNKNOWN_NAMES)
def test_a_mistake_is_named_with_its_rule_and_what_came(mine, override, line):
    assert mistakes(mine, override) == [line]


@pytest.mark.parametrize(("overrides", "line"), TOO_MANY)
def test_a_number_that_no_machine_can_serve_is_refused_before_it_is_counted_up(mine, overrides, line):
    assert mistakes(mine, *overrides.split("\n"))[0] == line


@pytest.mark.parametrize(("eps", "radius"), [("8/255", 8 / 255), ("0.5", 0.5), ("' 1.5 / 255 '", 1.5 / 255)])
def test_a_radius_may_be_a_fraction_and_survives_the_config_that_is_kept(mine, eps, radius):
    sweep = config_file.load(str(mine), [f"audit.autoattack={{eps: {eps}, samples: 20}}"])
    assert sweep.audit.autoattack.eps == radius
    assert Sweep.model_validate(sweep.model_dump(mode="json")) == sweep
    assert "autoattack" in sweep.audit.chosen()
    assert "autoattack" not in config_file.load(str(mine)).audit.chosen()


def test_a_section_as_in_the_scripts_is_their_settings_under_what_else_it_says(mine):
    sweep = config_file.load(str(mine), [
        "references={as: scripts, count: 6}", "rmia.as=scripts", "attack.search={as: scripts, steps: 20}",
        "methods={l1_sparse: {as: scripts, settings: {alpha: 0.001}}, boundary_shrink: {as: paper}}"])
    search = sweep.attack.search
    assert (sweep.references.count, sweep.references.epochs, sweep.rmia.order) == (6, 161, 3)
    assert (search.name, search.steps, search.start, search.stop) == ("pgd_l2", 20, "warm", "first_flip")
    assert sweep.method_settings(Contender("l1_sparse", "retain")) == {"compounded": 1, "alpha": 0.001}
    assert config_file.load(str(mine), ["rmia.as=paper", "references.as=paper"]) == config_file.load(str(mine))


def test_what_has_one_reading_or_no_such_is_named(mine):
    wrong = "methods={amun: {as: scripts}, l1_sparse: {as: text}, finetune: {search: [alhpa]}}"
    assert mistakes(mine, "rmia.as=script", wrong) == [
        "rmia: as: must be paper or scripts, but got 'script'",
        "methods.amun: as: the paper and its scripts do this alike; leave it out",
        "methods.l1_sparse: as: must be paper or scripts, but got 'text'",
        "methods.finetune.search: finetune has no setting 'alhpa'. Its settings: none"]


def test_trades_is_not_trained_by_several_gpus(mine):
    assert mistakes(mine, "training.loss=trades", "resources.gpus=2") == [
        "resources.gpus: must be at most 1 with training.loss trades, whose attack one worker computes, but got 2"]
    assert mistakes(mine, "training.loss=trades", "resources.widen=true") == [
        "resources.widen: must be left out with training.loss trades, whose attack one worker computes"]


@pytest.mark.parametrize("gpus", ["0.5", "0", "4"])
def test_widen_finds_how_many_gpus_train_a_model_and_none_may_be_given(mine, gpus):
    assert mistakes(mine, f"resources={{gpus: {gpus}, widen: true}}") == [
        f"resources: widen finds how many GPUs train a model: gpus must be 1 or auto, but got {gpus}"]
    for fitting in ("1", "auto"):
        assert config_file.load(str(mine), [f"resources={{gpus: {fitting}, widen: true}}"]).resources.widen


def test_the_most_that_may_be_asked_for_is_taken(mine):
    sweep = config_file.load(str(mine), [
        "originals.count=100", "forget.sets=50", "held_out={sets: 100, originals: 100}", "final.runs=2",
        "references.count=10000", "search={sampler: grid, trials: 10000, grid: {lr: 3333}}"])
    assert len(given_points(sweep, Contender("amun", "retain"))) == 9999


@pytest.mark.parametrize("key", ["name", "data", "model", "training", "forget", "methods", "training.lr", "model.name"])
def test_a_key_that_must_be_there_is_asked_for(mine, key):
    content = parse(PLAIN)
    first, _, second = key.partition(".")
    del (content[first] if second else content)[second or first]
    mine.write_text(yaml.safe_dump(content))
    assert mistakes(mine) == [f"{key}: this key is required"]


def test_all_mistakes_of_a_file_come_in_one_message(mine):
    mine.write_text("""
name: mine
data: {name: digist}
model: {name: resnet21, opptions: {}}
training: {epochs: 2, lr: 0.1, lerning_rate: 3}
forget: {fraction: 0.7}
held_out: {originals: 9}
methods:
  amnu:
  amun: {access: [nothing]}
  finetune: {access: [forget_only]}
search: {trials: 0, epochs: many}
serch: 3
""")
    found = [line.partition(": ")[0] for line in mistakes(mine)]
    assert sorted(found) == sorted([
        "data.name", "model.name", "model.opptions", "training.lerning_rate", "forget.fraction", "held_out",
        "methods.amnu", "methods.amun.access.0", "methods.finetune.access", "search.trials", "search.epochs", "serch"])


@pytest.mark.parametrize(("content", "line"), [
    ("here = nothing", "cannot be imported: NameError: name 'nothing' is not defined"),
    ("here = (", "cannot be imported: SyntaxError: '(' was never closed (broken.py, line 1)"),
    ("import os\nos.nothing", "cannot be imported: AttributeError: module 'os' has no attribute 'nothing'"),
    ("METHODE = 1", "has no 'METHOD'; did you mean 'METHODE'?"),
])
def test_a_module_that_breaks_is_one_line(mine, tmp_path, monkeypatch, content, line):
    (tmp_path / "broken.py").write_text(content)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "broken", raising=False)
    assert mistakes(mine, "methods={'broken:METHOD': }") == [
        f"methods.broken:METHOD: method 'broken:METHOD': module 'broken' {line}"]


@pytest.mark.parametrize("name", ["broken:", ":METHOD", ".broken:METHOD", "a b:METHOD"])
def test_a_name_of_another_form_is_one_line(mine, name):
    assert mistakes(mine, f"methods={{'{name}': }}") == [
        f"methods.{name}: method {name!r}: a name of the form package.module:NAME is expected"]


def test_several_wrong_settings_of_one_row_are_all_named(mine):
    assert mistakes(mine, "data={name: parquet, flip: true, options: {x: 1}}") == [
        "data: dataset 'parquet' has no setting 'x'. Its settings: train, test, image_column, label_column, classes, "
        "resize, center_crop, interpolation, on_error, train_size, test_size, seed",
        "data: dataset 'parquet' needs the setting 'train'", "data: dataset 'parquet' needs the setting 'test'"]
    assert mistakes(mine, "model.name=os.path:basename") == [
        f"model: model 'os.path:basename' {rule}" for rule in (
            "must take the keyword 'channels'", "must take the keyword 'classes'", "must take the keyword 'size'",
            "needs the setting 'p'")]


@pytest.mark.parametrize(("text", "line"), [
    ("name: [", "cannot be read as YAML: while parsing a flow node"),
    ("", "a mapping of settings is expected, found NoneType"),
    ("- a\n- b", "a mapping of settings is expected, found list"),
    ("name: a\nname: b", "cannot be read as YAML: line 2: the key 'name' stands twice"),
    ("name: \x00", "cannot be read as YAML: unacceptable character"),
])
def test_a_file_that_is_no_config_is_one_line(mine, text, line):
    mine.write_text(text)
    found = mistakes(mine)
    assert len(found) == 1
    assert found[0].startswith(line)


def test_names_and_paths_resolve(mine, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)  # a name does not depend on the folder that the command is given in
    assert config_file.resolve("default").is_file()
    assert config_file.resolve("mine.yaml") == Path("mine.yaml")
    assert config_file.resolve(str(mine)) == mine
    with pytest.raises(UserError, match=r"config 'defualt': no such name; did you mean 'default'\? Known: .*default"):
        config_file.resolve("defualt")
    with pytest.raises(UserError, match=r"config 'nothing.yaml': no such file"):
        config_file.resolve("nothing.yaml")


def test_a_named_recipe_is_what_it_stands_for(mine):
    def training(text):
        return config_file.load(str(mine), [f"training={text}"]).training
    written = "{lr: 0.1, epochs: 200, batch_size: 128, momentum: 0.9, weight_decay: 5e-4, decay_every: 40}"
    assert training("{recipe: paper}") == training(written)
    assert training("{recipe: fast, epochs: 8}") == training("{lr: 0.1, epochs: 8, schedule: one_cycle}")


def test_overrides_change_one_key_and_are_read_as_yaml(mine):
    sweep = config_file.load(str(mine), ["search.trials=3", "search.lr.low=1e-4", "search.schedules=[never, every_2]",
                                         "methods.amun.access=[retain]", "search.trials=4", "storage=s3://a=b"])
    assert (sweep.search.trials, sweep.search.lr.low, sweep.search.lr.high) == (4, 1e-4, 0.1)
    assert sweep.search.schedules == ("never", "every_2")
    assert sweep.contenders == [("finetune", "retain"), ("amun", "retain")]
    assert sweep.storage == "s3://a=b"


@pytest.mark.parametrize("override", ["search.trials", "=3", "search.trials=[", "se\narch=3", "a=[\n", "a=\x07"])
def test_an_override_that_cannot_be_read_is_shown_on_one_line(mine, override):
    with pytest.raises(UserError) as caught:
        config_file.load(str(mine), [override])
    assert str(caught.value).startswith(f"--set {override if override.isprintable() else repr(override)}: ")
    assert "\n" not in str(caught.value)


def test_a_mistake_says_where_it_was_written(mine):
    with pytest.raises(UserError, match=r"^--set: search.trials: "):
        config_file.load(str(mine), ["search.trials=0"])
    with pytest.raises(UserError, match=r"mine.yaml with --set: search.lr: low <= high"):
        config_file.load(str(mine), ["search.lr.low=5"])
    mine.write_text(PLAIN + "search: {trials: 0}")
    with pytest.raises(UserError, match=r"mine.yaml: search.trials: "):
        config_file.load(str(mine))


def test_a_config_is_frozen_and_its_dump_loads_again(mine, tmp_path):
    sweep = config_file.load(str(mine))
    with pytest.raises(ValueError, match="frozen"):
        sweep.seed = 3
    again = tmp_path / "again.yaml"
    again.write_text(yaml.safe_dump(sweep.model_dump(mode="json")))
    assert config_file.load(str(again)) == sweep
    assert isinstance(sweep, Sweep)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_is_one_line_of_a_config(mine, name):
    sweep = config_file.load(str(mine), [f"methods={{{name}: }}"])
    assert sweep.contenders == [(name, access) for access in accesses(name)]
    assert all(sweep.method_settings(contender) == {} for contender in sweep.contenders)


def test_a_setting_is_given_and_searched_where_it_counts(mine):
    sweep = config_file.load(str(mine), [
        "methods={amun_salun: {settings: {forget_statistics: 1}, search: [mask_ratio]},"
        "gradient_ascent: {search: [forget_statistics]}, salun: {search: [forget_statistics, mask_ratio]}}"])
    assert sweep.method_settings(Contender("amun_salun", "retain")) == {}
    assert sweep.method_settings(Contender("amun_salun", "forget_only")) == {"forget_statistics": 1}
    assert {name: list(sweep.space(name))[2:] for name in sweep.contenders} == {
        ("amun_salun", "retain"): ["mask_ratio"], ("amun_salun", "forget_only"): ["mask_ratio"],
        ("gradient_ascent", "retain"): ["forget_statistics"], ("gradient_ascent", "forget_only"): ["forget_statistics"],
        ("salun", "retain"): ["mask_ratio"], ("salun", "forget_only"): ["forget_statistics", "mask_ratio"]}


@pytest.mark.parametrize("name", [name for name in METHODS if METHODS[name].settings])
def test_every_setting_of_a_method_can_be_given_and_searched(mine, name):
    keys, row = list(METHODS[name].settings), METHODS[name].settings
    given = ", ".join(f"{key}: {row[key].default}" for key in keys)
    sweep = config_file.load(str(mine), [f"methods={{{name}: {{settings: {{{given}}}, search: [{', '.join(keys)}]}}}}"])
    assert sweep.methods[name].search == tuple(keys)


@pytest.mark.parametrize("name", ATTACKS)
def test_every_attack_is_one_line_of_a_config(mine, name):
    assert config_file.load(str(mine), [f"attack.search.name={name}"]).attack.search.name == name


@pytest.mark.parametrize("name", MODELS)
def test_every_model_is_one_line_of_a_config(mine, name):
    assert config_file.load(str(mine), [f"model.name={name}"]).model.name == name


def test_a_point_leaves_out_what_does_not_count_with_an_access(mine):
    point = "{lr: 0.01, schedule: never, settings: {forget_statistics: 1}}"
    sweep = config_file.load(str(mine), [f"methods={{amun: {{search: [forget_statistics], points: [{point}]}}}}"])
    for access in ("retain", "forget_only"):
        (given,) = given_points(sweep, Contender("amun", access))
        assert given.keys() == {"lr", "schedule", "forget_statistics"} & sweep.space(Contender("amun", access)).keys()


def test_merge_keys_make_settings_that_are_written_once(mine):
    mine.write_text(PLAIN.replace("finetune:\n  amun:\n", "amun: &both {access: [retain]}\n  finetune: {<<: *both}\n"))
    assert config_file.load(str(mine)).contenders == [("amun", "retain"), ("finetune", "retain")]


def test_a_date_is_a_text_also_as_a_key(mine):
    assert config_file.load(str(mine), ["name=2024-01-01"]).name == "2024-01-01"
    (line,) = mistakes(mine, "methods={2024-01-01: }")
    assert line.startswith("methods.2024-01-01: unknown method '2024-01-01'. Known: amun")


@pytest.mark.parametrize(("override", "line"), [
    ("search.trials=010", "search.trials=010: cannot be read as YAML: line 1: 010 is 8 in YAML 1.1 and 10 in YAML 1.2"),
    ("training.epochs=1:30", "training.epochs=1:30: cannot be read as YAML: line 1: 1:30 is a number to base 60"),
    ("search.lr.high=.inf", "search.lr.high=.inf: cannot be read as YAML: line 1: .inf is no finite number"),
    ("search.trials=[", "search.trials=[: cannot be read as YAML: while parsing a flow node"),
])
def test_an_override_is_read_as_strictly(mine, override, line):
    with pytest.raises(UserError) as caught:
        config_file.load(str(mine), [override])
    assert str(caught.value).startswith(f"--set {line}")
    assert "\n" not in str(caught.value)


def test_very_many_mistakes_and_very_long_ones_are_cut_short(mine):
    mine.write_text(PLAIN + "".join(f"k{k}: 1\n" for k in range(4000)))
    found = mistakes(mine)
    assert len(found) == 21
    assert found[0].startswith("k0: unknown key")
    assert found[-1] == "... and more mistakes than these"
    mine.write_text(PLAIN.replace("0.1}", f"0.1, indices: [{'1, ' * 4000}]}}"))
    (line,) = mistakes(mine)
    assert line == "forget.indices: must be a valid string, but got [1, 1, 1, 1, 1, 1, ...]"
    mine.write_text(PLAIN.replace("name: mine", f"name: '{'-' * 10**5}'"))
    (line,) = mistakes(mine)
    assert line.startswith("name: must be of letters, digits, _, . and -, but got '----")
    assert len(line) < 1100


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"\x00\x01PAR1" * 100])
def test_a_file_that_is_no_text_is_one_line(mine, content):
    mine.write_bytes(content)
    (line,) = mistakes(mine)
    assert line.startswith("cannot be read")
