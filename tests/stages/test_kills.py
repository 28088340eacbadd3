"""A request without Ray and MLflow: a kill between any two actions ends in the same ledger, registry and proofs."""

import json
import re
from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from amun_ray import data, desk, sweep
from amun_ray.base.errors import UserError
from amun_ray.config.file import load
from amun_ray.config.production import Limits
from amun_ray.forget import parse
from amun_ray.ledger import Ledger
from amun_ray.reporting.proof import NAMES, PROOFS
from amun_ray.stages import production, purges
from amun_ray.storage.store import Unit
from amun_ray.work.plan import Plan
from amun_ray.work.units import Trained

ROW = {"method": "amun", "access": "retain", "lr": 0.01, "schedule": "never", "epochs": 2, "settings": {},
       "average_gap": {"mean": 1.0, "std": 0.5, "n": 4}}
FIRST = {"weights": "w0", "unit": {"kind": "models", "inputs": {}}, "test_accuracy": 99.0}


class Killed(BaseException):
    """What no `except Exception` stops, as no kill is."""


class World:
    """What outlives a process: the registry, and the proofs in MLflow. `last`: the moment of the kill, from 1."""

    def __init__(self) -> None:
        self.uri, self.name, self.address = "memory", "digits", "models:/digits@production"
        self.runs: list[str] = []  # of version 1, 2, ...
        self.alias: str | None = None
        self.attached: dict[str, str] = {}
        self.moments, self.last = 0, None

    @contextmanager
    def action(self):
        """Something that stays done, between two moments for a kill."""
        self._pass()
        yield
        self._pass()

    def _pass(self) -> None:
        self.moments += 1
        if self.moments == self.last:
            raise Killed

    def current(self):
        return self.alias

    def register(self, run, tags=None):
        with self.action():
            if run not in self.runs:
                self.runs.append(run)
        return str(self.runs.index(run) + 1)

    def promote(self, version):
        with self.action():
            self.alias = version

    def attach(self, run, folder):
        self.log(run, (folder / NAMES[0]).read_text())

    def log(self, run, page):
        with self.action():
            self.attached[run] = page


@pytest.fixture(scope="module")
def plan():
    return Plan(load("default", ["data.train_size=300"]), data.load("digits", train_size=300))


@pytest.fixture
def world(monkeypatch, plan):
    """A finished sweep of `plan`, and its world; the weights of a model are called after its step. A proof holds the
    digest of the last entry that it knows, and nothing else."""
    world = World()

    def counted(owner, name):
        original = getattr(owner, name)

        def call(*arguments, **options):
            with world.action():
                return original(*arguments, **options)
        monkeypatch.setattr(owner, name, call)

    def outcome(self, history, begun, current):
        step = begun.content["step"]
        assert begun.content["model"] == f"w{int(self._version) - 1}" == current.weights
        accepted = begun.content["limits"]["forget_test_auc"] > 0
        return {"accepted": accepted, "reasons": [] if accepted else ["too much is left"], "evidence": {},
                "intervals": {}, "before": {}, "limits": {}, "current": self._version, "seconds": 1.0,
                "model": {"weights": f"w{step}", "unit": "", "version": self.registry.register(f"run {step}"),
                          "run": f"run {step}"}}

    @contextmanager
    def opened(plan, output, ledger, name):
        experiment = SimpleNamespace(plan=plan, output=output, record=SimpleNamespace(environment={"device": "none"}),
                                     workspace=SimpleNamespace(new_model=lambda seed: None))
        yield production.Production(experiment, ledger, world)

    def archive(tracking):
        assert tracking
        return SimpleNamespace(has_run=world.runs.__contains__,
                               add=lambda run, files: world.log(run, files[f"proof/{NAMES[0]}"].decode()))

    def write_proof(history, request, folder, environment):
        files = dict.fromkeys(NAMES, history.entries[-1].digest.encode())
        (folder / request).mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            (folder / request / name).write_bytes(content)
        return files

    monkeypatch.setattr(sweep, "planned", lambda config, *_: Plan(config, plan.dataset))
    for module in (production, purges):
        monkeypatch.setattr(module, "write_proof", write_proof)
    monkeypatch.setattr(desk, "table", lambda *_: [ROW])
    monkeypatch.setattr(production, "original_of", lambda *_: FIRST)
    monkeypatch.setattr(production, "opened_production", opened)
    monkeypatch.setattr(production, "log_model", lambda *_, **__: "original")
    monkeypatch.setattr(production, "read_checkpoint", lambda place, *_: SimpleNamespace(
        state=f"w{int(place.rpartition('/')[2]) - 1}"))
    monkeypatch.setattr(production, "checkpoint", SimpleNamespace(digest=str))
    monkeypatch.setattr(production.Production, "steps", SimpleNamespace(
        trained=lambda training: Trained(training.name, Unit("models", {}), "", 0.0)))
    monkeypatch.setattr(production.Production, "_outcome", outcome)
    monkeypatch.setattr(purges, "Archive", archive)
    monkeypatch.setattr(purges, "purge_of", lambda plan, output, tracking, history, request, retire: SimpleNamespace(
        listed=lambda: [], limits=lambda: [], run=lambda: {"deleted": {}, "kept": [], "limits": [], "retired": False,
                                                           "search": {"radius": 1.0, "found": 0}}))
    for owner, name in ((Ledger, "append"), (production, "write_proof"), (purges, "write_proof"),
                        (production.Production, "_outcome")):
        counted(owner, name)
    return world


def command(plan, folder, *arguments, **requests):
    """The exit code of `amun-forget --request FILE ...` on the folder of the finished sweep."""
    config = plan.sweep.model_copy(update={"requests": plan.sweep.requests.model_copy(update=requests)})
    path = folder.parent / "rows.csv"  # the same for all folders of a test: the ledger has its name
    path.write_text("index\n3\n5\n8\n")
    output = folder / "out"
    options = parse(["--config", "default", "--request", str(path), *arguments])
    try:
        return desk.Desk(config, output, Ledger.of(None, output), options).serve()
    except UserError as error:
        if not re.search("every row was asked for before|its model was refused", str(error)):
            raise
        return 2


def state(world, folder):
    """What the ledger says but for times and digests, where the alias is, and what each request's proof knows."""
    history = Ledger.of(None, folder / "out").history
    proofs = [(folder / "out" / PROOFS / "r1" / NAMES[0]).read_text(), world.attached[world.runs[-1]]]
    return ([(one.kind, one.requests, json.dumps(dict(one.content), sort_keys=True)) for one in history.entries],
            world.alias, world.runs, [proof == history.entries[-1].digest for proof in proofs])


CASES = {"promoted": (("--promote",), {}), "finished": ((), {"promote": "asked"}),
         "purged": ((), {"promote": "auto", "purge": "auto"}),
         "refused": (("--promote",), {"limits": Limits(forget_test_auc=0.0)})}


@pytest.mark.parametrize("case", CASES)
def test_a_kill_between_any_two_actions_ends_in_the_same_ledger_and_registry(plan, world, tmp_path, case):
    arguments, requests = CASES[case]
    refused = case == "refused"
    (tmp_path / "whole").mkdir()
    assert command(plan, tmp_path / "whole", *arguments, **requests) == refused
    wanted = state(world, tmp_path / "whole")
    assert wanted[0][-1][0] == ("finished" if refused else case)
    assert wanted[3] == [True, True]
    for moment in range(1, world.moments + 1):
        folder = tmp_path / f"killed-{moment}"
        folder.mkdir()
        world.__init__()
        world.last = moment
        with pytest.raises(Killed):
            command(plan, folder, *arguments, **requests)
        assert command(plan, folder, *arguments, **requests) in (refused, 2), moment
        assert state(world, folder) == wanted, moment


@pytest.mark.parametrize(("alias", "message"), [
    (None, "models:/digits@production: no version has this alias any more; give it to version 2, which the ledger"),
    ("1", "models:/digits@production: version 1 has the weights w0, and the ledger says that w1 is in production")])
def test_an_alias_that_is_gone_or_elsewhere_is_one_line_and_the_request_is_kept(plan, world, tmp_path, alias, message):
    command(plan, tmp_path)
    world.alias = alias
    (tmp_path / "rows.csv").write_text("index\n20\n21\n")
    ledger = Ledger.of(None, tmp_path / "out")
    for arguments in (["--request", str(tmp_path / "rows.csv")], ["--due"]):
        with pytest.raises(UserError) as error:
            desk.Desk(plan.sweep, tmp_path / "out", ledger, parse(["--config", "default", *arguments])).serve()
        assert str(error.value).startswith(message)
        assert str(error.value).endswith("amun-forget --due goes on")
        assert [one.kind for one in ledger.history.entries[5:]] == ["received"]
    world.alias = "2"
    assert desk.Desk(plan.sweep, tmp_path / "out", ledger, parse(["--config", "default", "--due"])).serve() == 0
    assert ledger.history.entries[-1].requests == ("r2",)
    assert world.alias == "3"
