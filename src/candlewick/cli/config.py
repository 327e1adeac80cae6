"""`candlewick config`: what a configuration resolves to, what its settings mean, and how two of them differ."""

import argparse
import json
import sys

from candlewick.cli.arguments import (
    add_config,
    add_json,
    load_config,
    load_with_origins,
    print_json,
    side,
    whole_number,
)
from candlewick.errors import ConfigError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    about = "print every setting, of defaults, file and overrides; so a file of transformer_candle becomes ours"
    show = actions.add_parser("show", help=about)
    add_config(show)
    form = show.add_mutually_exclusive_group()
    form.add_argument("--format", choices=("yaml", "toml", "json"), help="default yaml")
    form.add_argument("--origins", action="store_true", help="say of each setting which file and line set it")
    add_json(show)
    show.set_defaults(action_run=_show)

    listed = actions.add_parser("list", help="the shipped profiles, and what each is for")
    add_json(listed)
    listed.set_defaults(action_run=_list)

    schema = actions.add_parser("schema", help="print the JSON schema of a configuration, for editors")
    schema.set_defaults(action_run=_schema)

    explain = actions.add_parser("explain", help="what a setting means, may be and is, and what reads it")
    explain.add_argument("key", metavar="KEY", help="for example optimizer.momentum, or momentum")
    add_config(explain)
    add_json(explain)
    explain.set_defaults(action_run=_explain)

    diff = actions.add_parser("diff", help="the settings in which two configurations differ")
    for name in ("first", "second"):
        diff.add_argument(name, metavar=name.upper(), help="a file, a profile or a run folder")
    add_json(diff)
    diff.set_defaults(action_run=_diff)

    plot = actions.add_parser("plot-schedule", help="draw the learning rate over the run")
    add_config(plot)
    plot.add_argument("--steps", metavar="N", type=whole_number(1), help="a run of this length instead")
    add_json(plot)
    plot.set_defaults(action_run=_plot)


def run(args: argparse.Namespace) -> None:
    """Run the chosen action."""
    args.action_run(args)


def _show(args: argparse.Namespace) -> None:
    from candlewick.config.tree import dump_json, dump_toml, dump_yaml, flatten

    if args.json and args.format not in (None, "json"):
        raise ConfigError(f"--json and --format {args.format} are two formats", "give one of them")
    config, origins = load_with_origins(args.config, args.override)
    if not args.origins:
        dumps = {"yaml": dump_yaml, "toml": dump_toml, "json": dump_json}
        sys.stdout.write(dumps[args.format or ("json" if args.json else "yaml")](config))
        return
    values = flatten(config)
    if args.json:
        print_json({key: {"value": value, "origin": origins[key]} for key, value in values.items()})
        return
    width = max(map(len, values))
    for key, value in values.items():
        print(f"{key:<{width}}  {json.dumps(value, ensure_ascii=False):<24}  {origins[key]}")


def _list(args: argparse.Namespace) -> None:
    from candlewick.config.load import profiles, read_profile

    heads = {name: read_profile(name).partition("\n")[0].removeprefix("# ") for name in profiles()}
    if args.json:
        print_json(heads)
        return
    for name, head in heads.items():
        print(f"{name:<16}{head}")


def _schema(args: argparse.Namespace) -> None:
    from candlewick.config.schema import json_schema

    del args
    print_json(json_schema())


def _explain(args: argparse.Namespace) -> None:
    from candlewick.cli.explain import explain, print_entries

    found = explain(args.key, *load_with_origins(args.config, args.override))
    if args.json:
        print_json(found)
    else:
        print_entries(found)


def _diff(args: argparse.Namespace) -> None:
    from candlewick.config.tree import differences

    found = differences(load_config(args.first), load_config(args.second))
    if args.json:
        print_json(found)
        return
    for key, sides in found.items():
        print(f"{key}: {side(sides, 'first')} -> {side(sides, 'second')}")


def _plot(args: argparse.Namespace) -> None:
    from candlewick.cli.schedule import draw, schedule

    config = load_config(args.config, args.override)
    found = schedule(config, args.steps)
    if args.json:
        print_json(found)
    else:
        print(draw(config, found))
