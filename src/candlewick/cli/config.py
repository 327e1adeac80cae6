"""`candlewick config`: what a configuration resolves to."""

import argparse
import sys

from candlewick.cli.arguments import add_config


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    show = actions.add_parser("show", help="print every setting: defaults, file and overrides together")
    add_config(show)
    show.add_argument("--format", choices=("yaml", "toml", "json"), default="yaml", help="default yaml")
    show.add_argument(
        "--json", action="store_const", const="json", dest="format", help="the same as --format json"
    )
    show.set_defaults(action_run=_show)


def run(args: argparse.Namespace) -> None:
    """Run the chosen action."""
    args.action_run(args)


def _show(args: argparse.Namespace) -> None:
    from candlewick.config_io import dump_json, dump_toml, dump_yaml, load_config

    dump = {"yaml": dump_yaml, "toml": dump_toml, "json": dump_json}[args.format]
    sys.stdout.write(dump(load_config(args.config, args.override)))
