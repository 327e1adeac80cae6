"""`candlewick compare`: compare the settings, losses and speed of two runs."""

import argparse
from pathlib import Path

from candlewick.cli.arguments import add_reporting, setup_logging
from candlewick.cli.output import emit_json, format_side


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    for name in ("first", "second"):
        parser.add_argument(name, metavar=name.upper(), type=Path, help=f"folder of the {name} run")
    add_reporting(parser)


def run(args: argparse.Namespace) -> None:
    """Compare and print."""
    from candlewick.runs.report.compare import compare_runs
    from candlewick.runs.report.plot import plot

    setup_logging(args)
    result = compare_runs(args.first, args.second)
    if emit_json(args, result):
        return
    names = result["runs"]
    _print_row("", names)
    print("\nsettings that differ" if result["settings"] else "\nall settings are the same")
    for key, sides in result["settings"].items():
        _print_row(key, [format_side(sides, name) for name in ("first", "second")])
    print(f"\ntraining loss, mean over {result['smoothed_over_tokens']:,.0f} tokens")
    _print_numbers({f"step {step:,}": values for step, values in result["training_loss"].items()})
    print("\nlast validation (final: of all of the text)")
    _print_numbers(result["validation"])
    print("\nspeed")
    _print_numbers(result["figures"])
    first, last = result["first_different_step"], result["last_common_step"]
    if last is None:
        difference = "no step of both runs is recorded"
    elif first is None:
        difference = f"the recorded losses are equal to the bit to the end, step {last:,}"
    else:
        difference = f"the recorded losses differ from step {first:,} on"
    print(f"\n{difference}\n")
    print(plot(dict(zip(names, result["curves"], strict=True)), x_label="step", y_label="loss"))


def _print_numbers(rows: dict[str, list[float | None]]) -> None:
    for name, (first, second) in rows.items():
        change = "" if first is None or second is None else f"{second - first:+,.4g}"
        values = ["-" if x is None else f"{x:,.{4 if abs(x) < 1000 else 0}f}" for x in (first, second)]
        _print_row(name, values, change)


def _print_row(name: str, values: list[str], change: str = "") -> None:
    print(f"{'  ' + name:<36}{values[0]:>24}  {values[1]:>24}  {change}".rstrip())
