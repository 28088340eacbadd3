"""Deletion in production: the model that serves forgets one request after another, and a ledger keeps the record.

    python amun_ray/forget.py                                            the embedded default: three requests on digits
    python amun_ray/forget.py --config mine.yaml --request rows.csv      what a finished sweep found, on today's request
    python amun_ray/forget.py --config mine.yaml --due                   for cron: what is due, and nothing otherwise
    python amun_ray/forget.py --config mine.yaml --status                what waits, what was done, what is due
"""

import argparse
import os
import sys
from pathlib import Path

if (__name__ == "__main__" and os.path.realpath(sys.path[0]) == os.path.dirname(os.path.realpath(__file__))
        and os.path.exists(os.path.join(sys.path[0], "__init__.py"))):  # as in sweep.py
    del sys.path[0]

from amun_ray.base.command import ended
from amun_ray.base.errors import UserError
from amun_ray.base.files import expanded
from amun_ray.base.log import say
from amun_ray.config.production import Standing
from amun_ray.config.reading import checked, resolve, settings


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line; a mistake in it ends with exit code 2."""
    parser = argparse.ArgumentParser(
        prog="amun-forget", formatter_class=argparse.RawDescriptionHelpFormatter, description=__doc__,
        epilog="The same command again goes on where it was stopped. docs/deletion.md has the whole. Exit codes: 0 "
               "done, 1 the new model was refused, 2 a mistake in what was given, 130 stopped by Ctrl-C.")
    parser.add_argument("--config", metavar="NAME|PATH", help="the config of a finished sweep (default: default)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY.PATH=VALUE", dest="overrides",
                        help="change one setting of the config, as for the sweep; repeatable")
    parser.add_argument("--allow-code", action="append", default=[], metavar="MODULE",
                        help="let the config name code of this module, as for the sweep; repeatable")
    parser.add_argument("--output", type=lambda given: Path(expanded(given)), metavar="DIR",
                        help="the sweep's folder (default: amun_output/NAME)")
    parser.add_argument("--by", default="", metavar="TEXT", help="who asked, for the ledger")
    parser.add_argument("--method", metavar="METHOD[:ACCESS]",
                        help="another row of the sweep's table than the one with the least Avg. Gap")
    parser.add_argument("--promote", action="store_true",
                        help="give an accepted model the alias; without a request, the one that waits for it")
    parser.add_argument("--dry-run", action="store_true", help="with --purge: list what would be deleted, and why")
    parser.add_argument("--retire", action="store_true",
                        help="with --purge: delete also the models that were trained on these rows")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--request", metavar="FILE", type=expanded,
                      help="forget the rows that a file names: row numbers, or a YAML file as the section `forget`")
    what.add_argument("--due", action="store_true", help="do what is due, and nothing otherwise")
    what.add_argument("--status", action="store_true", help="show what waits, what was done, what is due")
    what.add_argument("--purge", metavar="REQUEST",
                      help="delete what was made from the rows of a request that the model in production has forgotten")
    what.add_argument("--verify", action="store_true", help="check that no entry was changed or removed")
    parser.add_argument("--trust", metavar="DIGEST",
                        help="with --verify: write ledger.anchor anew at the entry with a digest that you kept")
    options = parser.parse_args(arguments)
    options.shown = not any((options.request, options.due, options.status, options.verify, options.promote,
                             options.purge))
    if options.shown and options.config is not None:
        parser.error("say what to do: --request FILE, --due, --promote, --status, --verify or --purge REQUEST")
    if (options.dry_run or options.retire) and not options.purge:
        parser.error("--dry-run and --retire belong to --purge REQUEST")
    if options.trust and not options.verify:
        parser.error("--trust DIGEST belongs to --verify")
    return options


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    options = parse(arguments)

    def work() -> int:
        if options.status or options.verify:
            return tell(options)
        from amun_ray.config.file import load
        from amun_ray.desk import Desk  # seconds of torch that --status and --verify spare
        from amun_ray.ledger import Ledger

        config = load(options.config or "default", options.overrides)
        output = (options.output or Path("amun_output", config.name)).absolute()
        return Desk(config, output, Ledger.of(config.requests.ledger, output), options).serve()

    return ended(work, arguments, options.allow_code)


def tell(options: argparse.Namespace) -> int:
    """`--status` and `--verify`: what the ledger says; returns the exit code."""
    from amun_ray.ledger.anchor import Anchor
    from amun_ray.ledger.file import ANCHOR, NAME, history_of
    from amun_ray.reporting.standing import standing

    path = resolve(options.config or "default")
    config = checked(Standing, path, settings(path, options.overrides), options.overrides)
    uri, output = config.requests.ledger, (options.output or Path("amun_output", config.name)).absolute()
    anchor = Anchor(output / ANCHOR)
    if uri is None and options.trust is None:
        history = history_of(output)
    else:
        from amun_ray.ledger import Ledger

        ledger = Ledger.of(uri, output)
        if options.trust:
            trusted = ledger.trust(options.trust)
            say(f"{anchor.path}: written anew, at entry {trusted.number} of {trusted.time}")
        history, uri = ledger.history, ledger.uri
    if not history.entries:
        raise UserError(f"no ledger at {uri or output / NAME}; it begins with the first --request")
    if options.verify:
        first, last = history.entries[0], history.entries[-1]
        say(f"{len(history.entries)} entries, from {first.time} to {last.time}: none was changed or removed. The "
            f"last digest: {last.digest}")
        if anchor.read() is None:
            say(f"not checked: whether entries are missing at the end; {anchor.path} is written with the next "
                "entry from here, or by --trust DIGEST")
    else:
        address = f"models:/{config.requests.model or config.name}@{config.requests.alias}"
        say("\n".join(standing(history, config.requests.batch, address)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
