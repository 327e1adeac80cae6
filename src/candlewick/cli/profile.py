"""`candlewick profile`: measure where a training step spends time and memory."""

import argparse
from pathlib import Path

from candlewick.cli.arguments import add_config, add_count, add_output, add_reporting, load_run_config
from candlewick.cli.output import emit_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add_config(parser)
    add_count(parser, "--steps", "number of updates to average over", default=5)
    about = "folder for trace.json (open it in Perfetto or chrome://tracing) and memory.pickle (CUDA)"
    add_output(parser, about, default=Path("profile"))
    add_reporting(parser)


def run(args: argparse.Namespace) -> None:
    """Profile and print."""
    from candlewick.runs.report.profile import profile_run

    result = profile_run(load_run_config(args), args.output, steps=args.steps)
    if emit_json(args, result):
        return
    print(f"a step takes {1e3 * result['step_seconds']:,.1f} ms (mean of {result['steps']})\n")
    for part in result["parts"]:
        print(f"{part['part']:<32}{1e3 * part['seconds']:>12,.2f} ms{part['share']:>9.1%}")
    print("\nthe operators with the most time of their own, under the profiler\n")
    for entry in result["operators"]:
        calls = f"{entry['calls']:,.0f} calls"
        print(f"{entry['name'][:50]:<52}{calls:>14}{1e3 * entry['seconds']:>12,.2f} ms{entry['share']:>9.1%}")
    print("\nmemory\n")
    for name, size in result["memory"].items():
        print(f"{name:<32}{size / 1e6:>12,.2f} MB")
    print(f"\nwrote {args.output / 'trace.json'}")
