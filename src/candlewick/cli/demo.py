"""`candlewick demo`: go from text to a trained model in one command, as `make demo` does."""

import argparse
import shlex
import shutil
import sys
import textwrap
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from candlewick.cli.arguments import (
    add_option,
    add_override,
    add_plain,
    add_reporting,
    add_sources,
    load_run_config,
)
from candlewick.cli.environment import shown_program
from candlewick.cli.output import emit_json, escape_for_terminal, print_stage

if TYPE_CHECKING:
    from candlewick.config import RunConfig
    from candlewick.runs.demo import Stage

_NARROW = 60  # columns, below which a sample stands under its figures


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

    args.config = "demo"
    is_size_given = args.size is not None or args.hidden is not None or args.layers is not None
    if args.size is not None:
        size = SIZES[args.size]
        args.hidden, args.layers = args.hidden or size["hidden"], args.layers or size["layers"]
    tell = partial(print_stage, stream=sys.stderr if args.json else sys.stdout)
    config = load_run_config(args)
    run_dir = args.run_dir or Path("runs") / (Path(args.sources[0]).resolve().stem if args.sources else "demo")
    tell(_introduce(config, run_dir))

    from candlewick.runs.demo import run_demo

    result = run_demo(config, run_dir, tell, is_size_given=is_size_given)
    stages: list[Stage] = result["stages"]
    if not emit_json(args, result | {"stages": [_as_json(stage) for stage in stages]}):
        _show(stages, config, run_dir)


def _introduce(config: "RunConfig", run_dir: Path) -> str:
    """Return what is going to happen: text, size, device, time and place."""
    from candlewick.data.tokens.workers import count_cores
    from candlewick.model.flops import model_size

    size = model_size(config.model, config.tokenizer.vocab_size).total
    schedule, text = config.scheduler, ", ".join(config.data.train_shards)
    units = {"seconds": "seconds of training", "steps": "updates", "tokens": "tokens", "epochs": "passes"}
    ends = ((getattr(schedule, f"total_{unit}"), name) for unit, name in units.items())
    end = next(f"{value:,g} {name}" for value, name in ends if value is not None)
    model = f"{size / 1e6:.1f} million parameters, {end}, on {count_cores()} cores"
    return f"text   {text}\nmodel  {model}\nrun    {run_dir}"


def _as_json(stage: "Stage") -> dict[str, Any]:
    return {name: getattr(stage, name) for name in ("step", "seconds", "bits_per_byte", "text")}


def _show(stages: "list[Stage]", config: "RunConfig", run_dir: Path) -> None:
    """Print what the model wrote over time, its curve, and what to do next."""
    from candlewick.runs.report.plot import plot
    from candlewick.train.monitor.display import duration
    from candlewick.train.monitor.trackers import read_metrics

    width = min(shutil.get_terminal_size().columns, 100)
    print(f"\n{'step':>7} {'after':>6} {'bits per byte':>14}  what it writes")
    for stage in stages:
        head = f"{stage.step:>7,} {duration(stage.seconds):>6} {stage.bits_per_byte:>14.3f}  "
        indent = len(head) if width >= _NARROW else 4
        words = escape_for_terminal(" ".join((stage.text or "").split()))
        lines = textwrap.wrap(words, width - indent, max_lines=4, placeholder=" ...")
        rest = lines[1:] if width >= _NARROW else lines
        print(head + (lines[0] if lines and width >= _NARROW else ""))
        print("".join(f"{' ' * indent}{line}\n" for line in rest), end="")
    rows = read_metrics(run_dir / "metrics.jsonl")
    losses = [(row["step"], row["train/loss"]) for row in rows if row.get("train/loss") is not None]
    if losses:
        print("\n" + plot({"training": losses}, width=width - 2, height=8, x_label="step", y_label="loss"))
    program, place = shown_program(), shlex.quote(str(run_dir))
    text = "".join(f"{shlex.quote(source)} " for source in config.data.train_shards if "://" not in source)
    own = "" if run_dir == Path("runs/demo") else f" --run-dir {place}"
    seconds = config.scheduler.total_seconds
    print("\ntry:")
    print(f"  {program} generate {place}")
    if seconds is not None:
        print(f"  {program} demo {text}--seconds {4 * seconds:g}{own}    # trains it longer")
    print(f"  {program} demo YOUR_TEXT.txt")
