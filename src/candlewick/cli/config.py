"""`candlewick config`: what a configuration resolves to, what its settings mean, and how two of them differ."""

import argparse
import json
import sys
from typing import Any

from candlewick.cli.arguments import add_config, add_json, print_json, whole_number


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    show = actions.add_parser("show", help="print every setting: defaults, file and overrides together")
    add_config(show)
    form = show.add_mutually_exclusive_group()
    form.add_argument("--format", choices=("yaml", "toml", "json"), default="yaml", help="default yaml")
    form.add_argument("--origins", action="store_true", help="say of each setting which file and line set it")
    add_json(show)
    show.set_defaults(action_run=_show)

    schema = actions.add_parser("schema", help="print the JSON schema of a configuration, for editors")
    schema.set_defaults(action_run=_schema)

    explain = actions.add_parser("explain", help="what a setting means, what it may be, and what reads it")
    explain.add_argument("key", metavar="KEY", help="for example optimizer.momentum, or momentum")
    add_json(explain)
    explain.set_defaults(action_run=_explain)

    diff = actions.add_parser("diff", help="the settings in which two configurations differ")
    for name in ("first", "second"):
        diff.add_argument(name, metavar=name.upper(), help="a file, a profile or a run folder")
    add_json(diff)
    diff.set_defaults(action_run=_diff)

    plot = actions.add_parser("plot-schedule", help="draw the learning rate over the run")
    add_config(plot)
    plot.add_argument("--steps", metavar="N", type=whole_number(1), help="length of a run that has no total_steps")
    add_json(plot)
    plot.set_defaults(action_run=_plot)


def run(args: argparse.Namespace) -> None:
    """Run the chosen action."""
    args.action_run(args)


def _show(args: argparse.Namespace) -> None:
    from candlewick.config_io import dump_json, dump_toml, dump_yaml, flatten, load_with_origins

    config, origins = load_with_origins(args.config, args.override)
    if not args.origins:
        dump = {"yaml": dump_yaml, "toml": dump_toml, "json": dump_json}["json" if args.json else args.format]
        sys.stdout.write(dump(config))
        return
    values = flatten(config)
    if args.json:
        print_json({key: {"value": value, "origin": origins[key]} for key, value in values.items()})
        return
    width = max(map(len, values))
    for key, value in values.items():
        print(f"{key:<{width}}  {json.dumps(value, ensure_ascii=False):<24}  {origins[key]}")


def _schema(args: argparse.Namespace) -> None:
    from candlewick.config.schema import json_schema

    del args
    print_json(json_schema())


def _explain(args: argparse.Namespace) -> None:
    from candlewick.cli.explain import explain, print_entries

    found = explain(args.key)
    if args.json:
        print_json(found)
    else:
        print_entries(found)


def _diff(args: argparse.Namespace) -> None:
    from candlewick.config_io import flatten, load_config

    first, second = (flatten(load_config(source)) for source in (args.first, args.second))
    sides = {
        key: {name: side[key] for name, side in (("first", first), ("second", second)) if key in side}
        for key in [*first, *(key for key in second if key not in first)]
        if key not in first or key not in second or first[key] != second[key]
    }
    if args.json:
        print_json(sides)
        return
    for key, values in sides.items():
        print(f"{key}: {_side(values, 'first')} -> {_side(values, 'second')}")


def _side(values: dict[str, Any], name: str) -> str:
    return json.dumps(values[name], ensure_ascii=False) if name in values else "(no such setting)"


def _plot(args: argparse.Namespace) -> None:
    from candlewick.cli.schedule import draw, schedule
    from candlewick.config_io import load_config

    config = load_config(args.config, args.override)
    found = schedule(config, args.steps)
    if args.json:
        print_json(found)
    else:
        print(draw(config, found))
