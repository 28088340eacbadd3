"""Tune and compare unlearning methods, on this machine or on a Ray cluster.

    python amun_ray/sweep.py                                                       the embedded default, a few minutes
    python amun_ray/sweep.py --config cifar10_small --set search.trials=12         another config, one setting changed
    ray submit cluster/cluster.yaml amun_ray/sweep.py -- --config cifar10_resnet18      the same on a cluster
"""

import argparse
import shlex
import sys
from pathlib import Path

from amun_ray import config_file, data
from amun_ray.config import Sweep
from amun_ray.errors import UserError
from amun_ray.stages.plan import Plan
from amun_ray.stages.progress import say


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line; a mistake in it ends with exit code 2."""
    parser = argparse.ArgumentParser(
        prog="amun-ray", formatter_class=argparse.RawDescriptionHelpFormatter, description=__doc__,
        epilog="The same command again goes on where it was stopped and repeats nothing that is finished. Exit codes: "
               "0 done, 2 a mistake in what was given (one line says which), 130 stopped by Ctrl-C.")
    parser.add_argument("--config", default="default", metavar="NAME|PATH",
                        help="a name in tune_configs/ or the path of a YAML file (default: %(default)s)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY.PATH=VALUE", dest="overrides",
                        help="change one setting of the config, e.g. --set search.trials=12; repeatable")
    parser.add_argument("--output", type=Path, metavar="DIR",
                        help="where results.json, the finished work and, unless the config names a server, the MLflow "
                             "database go (default: amun_output/NAME)")
    parser.add_argument("--dry-run", action="store_true",
                        help="check everything that needs no worker, print the plan, and stop")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    options = parse(arguments)
    try:
        sweep = config_file.load(options.config, options.overrides)
        run(sweep, options.output or Path("amun_output", sweep.name), dry=options.dry_run)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        again = shlex.join([sys.argv[0], *(sys.argv[1:] if arguments is None else arguments)])
        print(f"\nstopped; what is finished is kept. To go on: python {again}", file=sys.stderr)
        return 130
    return 0


def run(sweep: Sweep, output: Path, *, dry: bool = False) -> None:
    """The experiment of the paper, stage by stage."""
    load = data.load_for_plan if dry else data.load
    plan = Plan(sweep, load(sweep.data.name, **sweep.data.settings))
    plan.check()
    say(f"{plan}\n  results     {output.absolute()}")
    if dry:
        return
    from amun_ray.stages.experiment import Experiment  # seconds of Ray and MLflow that --help and --dry-run spare

    with Experiment.open(plan, output) as experiment:
        models = experiment.train()                                # originals, retrained, references
        shards = experiment.attack(models)                         # the forget sets, on every device
        best = experiment.search(models, shards)                   # on the held-out sets
        unlearned = experiment.final(models, shards, best)         # on the sets that count
        experiment.report(models, shards, unlearned)               # tables, figures, MLflow


if __name__ == "__main__":
    sys.exit(main())
