"""`candlewick compare`: two runs side by side."""

import argparse
from pathlib import Path
from typing import Any

from candlewick.cli.arguments import add_reporting, print_json, setup_logging, side


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    for name in ("first", "second"):
        parser.add_argument(name, metavar="RUN", type=Path, help="a run folder")
    add_reporting(parser)


def run(args: argparse.Namespace) -> None:
    """Compare and print."""
    from candlewick.runs.report.compare import compare_runs
    from candlewick.runs.report.plot import plot

    setup_logging(args)
    result = compare_runs(args.first, args.second)
    if args.json:
        print_json(result)
        return
    names = result["runs"]
    _print_row("", names)
    print("\nsettings that differ" if result["settings"] else "\nall settings are the same")
    for key, sides in result["settings"].items():
        _print_row(key, [side(sides, name) for name in ("first", "second")])
    print(f"\ntraining loss, mean over {result['smoothed_over_tokens']:,.0f} tokens")
    for step, values in result["training_loss"].items():
        _print_numbers(f"step {step:,}", values)
    print("\nlast validation, a part of it before the end of a run")
    for name, values in result["validation"].items():
        _print_numbers(name, values)
    print("\nspeed")
    for name, values in result["figures"].items():
        _print_numbers(name, values)
    print(f"\n{_difference(result)}\n")
    print(plot(dict(zip(names, result["curves"], strict=True)), x_label="step", y_label="loss"))


def _difference(result: dict[str, Any]) -> str:
    first, last = result["first_different_step"], result["last_common_step"]
    if last is None:
        return "no step of both runs is recorded"
    if first is None:
        return f"the recorded losses are equal to the bit to the end, step {last:,}"
    return f"the recorded losses differ from step {first:,} on"


def _print_numbers(name: str, values: list[float | None]) -> None:
    first, second = values
    change = "" if first is None or second is None else f"{second - first:+,.4g}"
    _print_row(
        name, ["-" if value is None else f"{value:,.{4 if abs(value) < 1000 else 0}f}" for value in values], change
    )


def _print_row(name: str, values: list[str], change: str = "") -> None:
    print(f"{'  ' + name:<36}{values[0]:>24}  {values[1]:>24}  {change}".rstrip())
