"""`candlewick demo`: go from text to a trained model in one command, as `make demo` does."""

import argparse
import shlex
import shutil
import sys
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from candlewick.cli.arguments import (
    add_option,
    add_override,
    add_plain,
    add_reporting,
    add_sources,
    load_run_config,
)
from candlewick.cli.environment import shown_program
from candlewick.cli.output import emit_json, print_stage
from candlewick.terminal import shown_source

if TYPE_CHECKING:
    from candlewick.config import RunConfig
    from candlewick.runs.report.stages import Stage

_FULL = 0.5  # of its time, of a run that used it up


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    from candlewick.config.plain_settings import SIZES

    add_sources(parser, "files or folders to train on; default: stories://, stories of Candlewick's own grammar")
    about = "width and layers of the model; default: small, or tiny on a slow machine"
    parser.add_argument("--size", choices=tuple(SIZES), help=about)
    add_plain(parser)
    add_option(
        parser, "--run-dir", "DIR", "folder of the run; default: runs/demo, or runs/NAME of a TEXT", type=Path
    )
    add_override(parser)
    add_reporting(parser)


def run(args: argparse.Namespace) -> None:
    """Train the `demo` profile on a text, and show what it learned."""
    from candlewick.config.plain_settings import SIZES
    from candlewick.runs.demo import introduce, run_demo

    args.config = "demo"
    is_size_given = args.size is not None or args.hidden is not None or args.layers is not None
    if args.size is not None:
        size = SIZES[args.size]
        args.hidden, args.layers = args.hidden or size["hidden"], args.layers or size["layers"]
    tell = partial(print_stage, stream=sys.stderr if args.json else sys.stdout)
    config = load_run_config(args)
    run_dir = args.run_dir or Path("runs") / (Path(args.sources[0]).resolve().stem if args.sources else "demo")
    tell(introduce(config, run_dir))
    result = run_demo(config, run_dir, tell, is_size_given=is_size_given)
    stages: list[Stage] = result["stages"]
    if not emit_json(args, result | {"stages": [asdict(stage) for stage in stages]}):
        _show(stages, config, run_dir, result["floor"], is_named=args.run_dir is not None)


def _show(
    stages: "list[Stage]", config: "RunConfig", run_dir: Path, floor: float | None, *, is_named: bool
) -> None:
    """Print what the model wrote over time, its curve, and what to do next."""
    from candlewick.runs.report.stages import format_stages, plot_losses

    width = min(shutil.get_terminal_size().columns, 100)
    print(f"\n{format_stages(stages, width)}")
    if floor is not None:
        print(f"{floor:>29.3f}  the least that any model can reach on these stories")
    if curve := plot_losses(run_dir, width):
        print(f"\n{curve}")
    if (run_dir / "report.html").is_file():
        print(f"\nreport: {run_dir / 'report.html'}")
    program, place = shown_program(), shlex.quote(str(run_dir))
    sources = () if config.data.train_shards == ("stories://",) else config.data.train_shards
    text = "".join(f"{shlex.quote(shown_source(source))} " for source in sources)
    own = f" --run-dir {place}" if is_named else ""
    seconds = config.scheduler.total_seconds
    print("\ntry:")
    print(f"  {program} chat {place}")
    print(f"  {program} generate {place} --samples 3")
    if (
        seconds is not None and stages and stages[-1].seconds > _FULL * seconds
    ):  # else the text was too small for it
        print(f"  {program} demo {text}--seconds {4 * seconds:g}{own}    # trains it longer")
    print(f"  {program} demo YOUR_TEXT.txt")
