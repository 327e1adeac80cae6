"""`candlewick config`: show, explain and compare configurations."""

import argparse
import json
import sys

from candlewick.cli.arguments import add_action, add_config, add_count, load_from_arguments, load_with_dialect
from candlewick.cli.output import emit_json, format_side, print_json
from candlewick.errors import ConfigError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    about = "print the resolved configuration; converts a transformer_candle configuration"
    show = add_action(actions, "show", _show, about)
    add_config(show)
    form = show.add_mutually_exclusive_group()
    form.add_argument("--format", choices=("yaml", "toml", "json"), help="output format; default yaml")
    form.add_argument("--origins", action="store_true", help="print which file and line set each setting")

    add_action(actions, "list", _list, "list the shipped profiles with their size, memory and time")
    add_action(actions, "schema", _schema, "print the JSON schema of a configuration, for editors")

    explain = add_action(actions, "explain", _explain, "explain a setting: meaning, type, default, value, readers")
    explain.add_argument("key", metavar="KEY", help="for example optimizer.momentum, or momentum")
    add_config(explain)

    diff = add_action(actions, "diff", _diff, "show the settings in which two configurations differ")
    for name in ("first", "second"):
        diff.add_argument(name, metavar=name.upper(), help="a file, a profile or a run folder")

    plot = add_action(actions, "plot-schedule", _plot, "plot the learning rate over the run")
    add_config(plot)
    add_count(plot, "--steps", "number of updates of the run; default: that of the configuration")


def _show(args: argparse.Namespace) -> None:
    from candlewick.config.tree import dump, flatten

    if args.json and args.format not in (None, "json"):
        raise ConfigError(f"--json and --format {args.format} are two formats", "give one of them")
    config, origins = load_with_dialect(args.config, args.override)
    if not args.origins:
        sys.stdout.write(dump(config, args.format or ("json" if args.json else "yaml")))
        return
    values = flatten(config)
    if emit_json(args, {key: {"value": value, "origin": origins[key]} for key, value in values.items()}):
        return
    width = max(map(len, values))
    for key, value in values.items():
        print(f"{key:<{width}}  {json.dumps(value, ensure_ascii=False):<24}  {origins[key]}")


def _list(args: argparse.Namespace) -> None:
    from candlewick.runs.report.profiles import as_json, format_profiles, list_profiles

    rows = list_profiles()
    if not emit_json(args, as_json(rows)):
        print(format_profiles(rows))
        print("\ntrain one: candlewick train --config PROFILE TEXT")


def _schema(args: argparse.Namespace) -> None:
    from candlewick.config.schema import json_schema

    del args
    print_json(json_schema())


def _explain(args: argparse.Namespace) -> None:
    from candlewick.runs.report.explain import explain

    entries = explain(args.key, *load_with_dialect(args.config, args.override))
    if emit_json(args, entries):
        return
    for entry in entries:
        print(entry["key"] + (f"  (with {entry['kind']})" if entry["kind"] else ""))
        for name in ("meaning", "type", "default", "value", "source", "keys", "read_by"):
            if value := entry.get(name):
                print(f"  {name.replace('_', ' '):<8} {', '.join(value) if isinstance(value, list) else value}")


def _diff(args: argparse.Namespace) -> None:
    from candlewick.config.tree import differences

    settings = differences(*(load_with_dialect(source)[0] for source in (args.first, args.second)))
    if emit_json(args, settings):
        return
    for key, sides in settings.items():
        print(f"{key}: {format_side(sides, 'first')} -> {format_side(sides, 'second')}")


def _plot(args: argparse.Namespace) -> None:
    from candlewick.runs.report.schedule import plot_schedule, sample_schedule

    config = load_from_arguments(args)
    points = sample_schedule(config, args.steps)
    if not emit_json(args, points):
        print(plot_schedule(config, points))
