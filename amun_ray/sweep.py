"""Tune and compare unlearning methods, on this machine or on a Ray cluster.

    python amun_ray/sweep.py                                                       the embedded default, a few minutes
    python amun_ray/sweep.py --config cifar10_small --set search.trials=12         another config, one setting changed
    python amun_ray/sweep.py --config protocol_small --dry-run --calibrate         how much work it is, and how long
    ray submit cluster/cluster.yaml amun_ray/sweep.py -- --config paper_table1     the paper's protocol on a cluster
"""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

if (__name__ == "__main__" and os.path.realpath(sys.path[0]) == os.path.dirname(os.path.realpath(__file__))
        and os.path.exists(os.path.join(sys.path[0], "__init__.py"))):  # it is not the copy that `ray submit` makes
    del sys.path[0]  # this package's folder: its rooms would stand in for modules of the user's that have their names

from amun_ray import data
from amun_ray.base.blame import blaming
from amun_ray.base.command import ended
from amun_ray.base.files import expanded
from amun_ray.base.imports import importing
from amun_ray.base.log import say
from amun_ray.config.file import load as load_config
from amun_ray.config.schema import Sweep
from amun_ray.data.dataset import Dataset
from amun_ray.runtime.warm import begin
from amun_ray.work.forgotten import check_unasked, without_forgotten
from amun_ray.work.plan import Plan, kept_pixels
from amun_ray.work.preview import show
from amun_ray.work.trainings import settled


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line; a mistake in it ends with exit code 2."""
    parser = argparse.ArgumentParser(
        prog="amun-ray", formatter_class=argparse.RawDescriptionHelpFormatter, description=__doc__,
        epilog="The same command again goes on where it was stopped and repeats nothing that is finished. Exit codes: "
               "0 done, 2 a mistake in what was given (one line says which), 130 stopped by Ctrl-C, 141 nobody reads "
               "the output any more. docs/config.md has every key of a config.")
    parser.add_argument("--config", default="default", metavar="NAME|PATH",
                        help="a name in tune_configs/ or the path of a YAML file (default: %(default)s)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY.PATH=VALUE", dest="overrides",
                        help="change one setting of the config, e.g. --set search.trials=12; repeatable")
    parser.add_argument("--allow-code", action="append", default=[], metavar="MODULE",
                        help="let the config name code of this module, as package.module:NAME; repeatable. "
                             "AMUN_ALLOW_CODE=MODULE,... in the environment does the same")
    parser.add_argument("--output", type=lambda given: Path(expanded(given)), metavar="DIR",
                        help="where results.json, the finished work and, unless the config names a server, the MLflow "
                             "database go (default: amun_output/NAME)")
    parser.add_argument("--dry-run", action="store_true",
                        help="check what needs no worker, print the plan, what is done of it and how long it takes")
    parser.add_argument("--calibrate", action="store_true",
                        help="a dry run that first measures this machine, a minute at most, and keeps that for later")
    parser.add_argument("--compare", action="append", default=[], metavar="TABLE",
                        help="print the results, of a finished sweep at once, beside a table of the paper: "
                             "paper_table1 (with D_R) to paper_table5, or paper_table_trades; repeatable")
    options = parser.parse_args(arguments)
    if options.compare and (options.dry_run or options.calibrate):
        parser.error("--compare shows results, and a dry run has none: give one of the two")
    return options


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    options = parse(arguments)

    def work() -> int:
        sweep = load_config(options.config, options.overrides)
        output = options.output or Path("amun_output", sweep.name)
        if options.dry_run or options.calibrate:
            with blaming(sweep.own_names):
                plan = planned(sweep, data.load_for_plan, output)
                check_unasked(plan, output)
                show(plan, output, measure=options.calibrate)
        else:
            run(sweep, output, options.compare)
        return 0

    return ended(work, arguments, options.allow_code)


def run(sweep: Sweep, output: Path, compare: Sequence[str] = ()) -> list[dict[str, Any]]:
    """The experiment of the paper, and what its config asks beyond the table; `compare` names tables of the paper to be
    shown beside it. Returns the rows as in results.json."""
    if (os.environ.get("RAY_ADDRESS") or "local") == "local":
        begin()  # while this program imports and plans
    plan = planned(sweep, data.load, output)
    check_unasked(plan, output)
    if compare:
        from amun_ray.reporting import paper

        if (kept := paper.kept_rows(plan, plan.store(output), compare)) is not None:
            say(paper.beside(compare, kept, plan))
            return kept
    say(f"{plan}\n  results     {output.absolute()}")
    with importing():  # seconds of Ray and MLflow that --help and --dry-run spare
        from amun_ray.stages.experiment import Experiment
        from amun_ray.studies import Done, study

    with blaming(sweep.own_names), Experiment.open(plan, output) as experiment:
        rows = experiment.run(lambda *made: study(Done(experiment, *made)))
    if compare:
        say(f"\n{paper.beside(compare, rows, plan)}")
    return rows


def planned(sweep: Sweep, load: Callable[..., Dataset], output: Path) -> Plan:
    """The plan of a sweep, checked, with the dataset that `load` returns."""
    dataset = load(sweep.data.name, keep=kept_pixels(sweep, output), **sweep.data.settings)
    plan = Plan(sweep, without_forgotten(sweep, dataset, output))
    plan.check()
    return settled(plan, plan.store(output))


if __name__ == "__main__":
    sys.exit(main())
