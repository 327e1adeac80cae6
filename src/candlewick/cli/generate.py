"""`candlewick generate`: write text with any checkpoint folder, as it comes."""

import argparse
import sys
from pathlib import Path

from candlewick.cli.arguments import add_json, print_json, whole_number


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("checkpoint", metavar="CHECKPOINT", type=Path, help="a checkpoint folder, or a run folder")
    parser.add_argument("prompt", nargs="?", default="", help="text to go on from; default: start a new document")
    parser.add_argument("--max-new-tokens", metavar="N", type=int, default=256, help="default 256")
    parser.add_argument(
        "--temperature", metavar="X", type=float, default=0.8, help="0 takes the likeliest; default 0.8"
    )
    parser.add_argument(
        "--top-k", metavar="K", type=int, default=40, help="among the K likeliest; 0: all; default 40"
    )
    parser.add_argument("--top-p", metavar="P", type=float, help="among the likeliest that reach P together")
    parser.add_argument(
        "--seed", metavar="N", type=whole_number(0), default=0, help="same seed, same text; default 0"
    )
    parser.add_argument("--device", choices=("auto", "cuda", "mps", "cpu"), default="auto")
    add_json(parser)


def run(args: argparse.Namespace) -> None:
    """Generate and print."""
    from pydantic import ValidationError

    from candlewick.config import SampleConfig
    from candlewick.errors import ConfigError

    try:
        sampling = SampleConfig(
            max_new_tokens=args.max_new_tokens,
            temperature=args.temperature,
            top_k=args.top_k or None,
            top_p=args.top_p,
        )
    except ValidationError as error:
        problem = error.errors()[0]
        flag = "--" + str(problem["loc"][0]).replace("_", "-")
        raise ConfigError(f"{flag}: {problem['msg']}") from None

    from candlewick.checkpoint.load import load_for_inference
    from candlewick.generate.engine import stream_text
    from candlewick.parallel.env import find_device
    from candlewick.train.display import printable

    model, tokenizer = load_for_inference(args.checkpoint, find_device(args.device))
    # what a model writes may hold terminal commands; a file gets it as it is
    show = printable if sys.stdout.isatty() else str
    pieces: list[str] = []
    for piece in stream_text(model, tokenizer, args.prompt, sampling, seed=args.seed):
        pieces.append(piece)
        if not args.json:
            if len(pieces) == 1:
                sys.stdout.write(args.prompt)
            sys.stdout.write(show(piece))
            sys.stdout.flush()
    if args.json:
        print_json({"prompt": args.prompt, "text": "".join(pieces), "seed": args.seed})
    else:
        sys.stdout.write("\n")
