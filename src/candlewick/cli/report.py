"""`candlewick report`: write one or several runs as an HTML page, and as TensorBoard files."""

import argparse
from pathlib import Path

from candlewick.cli.arguments import add_option, add_reporting, setup_logging
from candlewick.cli.output import emit_json
from candlewick.errors import ConfigError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        "runs", metavar="RUN", nargs="+", type=Path, help="run folder; several: one over the other"
    )
    about = "the page; default: RUN/report.html, of several runs report.html in the current folder"
    add_option(parser, "--output", "FILE", about, type=Path)
    about = "also make TensorBoard files of metrics.jsonl; default DIR: RUN/tensorboard"
    parser.add_argument("--tensorboard", metavar="DIR", nargs="?", const=True, help=about)
    add_reporting(parser)


def run(args: argparse.Namespace) -> None:
    """Write the page, and print where it is."""
    from candlewick.runs.report.page import REPORT, write_report

    setup_logging(args)
    runs: list[Path] = args.runs
    if len({run.resolve().name for run in runs}) < len(runs):
        raise ConfigError("two of the runs have the same name", "give each once, or rename a folder")
    output: Path = args.output or (runs[0] / REPORT if len(runs) == 1 else Path(REPORT))
    write_report(runs, output)
    folders: list[Path] = []
    if args.tensorboard:
        from candlewick.runs.report.events import write_events

        for run in runs:
            folder = run / "tensorboard" if args.tensorboard is True else Path(args.tensorboard)
            folders.append(
                folder / run.resolve().name if args.tensorboard is not True and len(runs) > 1 else folder
            )
            write_events(run, folders[-1])
    if not emit_json(args, {"report": output, "tensorboard": folders}):
        print(f"report: {output}")
        for folder in folders:
            print(f"tensorboard --logdir {folder}")
