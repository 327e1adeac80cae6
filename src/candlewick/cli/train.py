"""`candlewick train`: train a model from a configuration, or resume a run."""

import argparse
import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from candlewick.cli import candle
from candlewick.cli.arguments import absolute, add_config, add_plain, add_reporting, add_sources, load_run_config
from candlewick.cli.environment import shown_program
from candlewick.cli.output import emit_json
from candlewick.errors import ConfigError, RunInterrupted

if TYPE_CHECKING:
    from candlewick.config import RunConfig

_UNITS = ("steps", "tokens", "epochs", "seconds")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add_sources(parser)
    add_config(parser)
    add_plain(parser)
    about = "folder of the run, for checkpoints, metrics and logs; default: runs/NAME with the name of FILE, or "
    about += "the folder of a training.yaml that `orchestrate` wrote"
    parser.add_argument("--run-dir", metavar="DIR", type=Path, help=about)
    about = "resume from the newest checkpoint in --run-dir, with its configuration unless --config is given; "
    about += "DIR is a run, or one of its checkpoints, from which it goes on; with auto, start if there is none: "
    about += "one command for a job that is restarted. To train it longer, add a larger end, such as --steps N"
    parser.add_argument("--resume", metavar="DIR", nargs="?", const=True, default=False, help=about)
    about = "start from the weights, model settings and tokenizer of this checkpoint, or of "
    about += "hf://OWNER/NAME@REVISION"
    parser.add_argument("--init-from", metavar="DIR", help=about)
    add_reporting(parser)


def run(args: argparse.Namespace) -> None:
    """Train, and print the last evaluation."""
    candle.read_as_candle(args)
    path = Path(args.config or "run")
    # `orchestrate` writes both files into the run folder: its training.yaml is trained in that folder
    is_prepared = path.stem == "training" and (path.parent / "special_tokens.txt").is_file()
    default_dir = path.parent if is_prepared else Path("runs") / path.stem
    resume, run_dir = _resume(args, default_dir)
    saved = run_dir / "config.yaml"
    if resume not in (False, "auto") and args.init_from is not None:
        raise ConfigError("--resume goes on with a run, --init-from starts a new one", "give one of them")
    if resume and args.config is None:
        if not saved.is_file():
            fix = "give the right --run-dir, or --config for a run that starts"
            raise ConfigError(f"{saved} does not exist, so there is nothing to resume", fix)
        args.config = str(saved)

    overrides: list[str] = []
    if args.init_from is not None:
        parent = json.dumps(absolute(args.init_from), ensure_ascii=False)
        overrides = [f"runtime.checkpoint.init_from={parent}"]
    config = load_run_config(args, overrides)

    from candlewick.runs.train import run_training

    try:
        result = run_training(config, run_dir, resume=resume)
    except RunInterrupted as error:
        if "--resume" in error.fix:
            error.words = ("train", "--resume", str(run_dir))
        raise
    if not emit_json(args, result):
        print(f"done: {result['steps']:,} steps, {result['tokens']:,} tokens")
        figures = {name.partition("/")[2]: figure for name, figure in result["metrics"].items()}
        if figures:
            print(f"validation: loss {figures['loss']:.4f}, {figures['bits_per_byte']:.4f} bits per byte")
        place, program = shlex.quote(str(run_dir)), shown_program()
        print(f"try: {program} generate {place}")
        print(f"train it longer: {program} train --resume {place} {_twice_as_long(config)}")


def _twice_as_long(config: "RunConfig") -> str:
    """Return the flag that doubles the length of a run."""
    ends = {unit: getattr(config.scheduler, f"total_{unit}") for unit in _UNITS}
    name, total = next((name, total) for name, total in ends.items() if total is not None)
    return f"--{name} {2 * total:g}" if isinstance(total, float) else f"--{name} {2 * total}"


def _resume(args: argparse.Namespace, default_dir: Path) -> tuple[bool | Literal["auto"] | Path, Path]:
    """Return what to resume, and the folder of the run. Raises ConfigError if nothing names it."""
    resume = args.resume
    if isinstance(resume, bool) or resume == "auto":
        if resume and args.run_dir is None and args.config is None:
            raise ConfigError("--resume needs the folder of a run", "give it: --resume RUN")
        return resume, args.run_dir or default_dir
    path = Path(resume)
    if (path / "config.json").is_file():  # a checkpoint, or a link to one
        places = [path.absolute().parent, *path.resolve().parents[:2]]
        found = next((place for place in places if (place / "config.yaml").is_file()), None)
        if found is None and args.run_dir is None:
            raise ConfigError(f"no run has {path} in its folder", "give the folder of its run with --run-dir")
        return path.resolve(), args.run_dir or found or default_dir
    if args.run_dir is not None and args.run_dir.resolve() != path.resolve():
        raise ConfigError(f"--resume names the run {path}, --run-dir {args.run_dir}", "give one of them")
    return True, path
