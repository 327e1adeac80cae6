"""`candlewick generate`: write text with any checkpoint folder, as it comes, several times, for many prompts."""

import argparse
import json
import sys
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from candlewick.cli.arguments import add_json, print_json, shown, whole_number
from candlewick.errors import CheckpointError, ConfigError, DataError

if TYPE_CHECKING:
    from candlewick.config import SampleConfig
    from candlewick.generate.engine import Engine
    from candlewick.tokenizer.bpe import Tokenizer

Json = dict[str, Any]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("checkpoint", metavar="CHECKPOINT", type=Path, help="a checkpoint folder, or a run folder")
    parser.add_argument("prompt", nargs="?", default="", help="text to go on from; default: start a new document")
    parser.add_argument(
        "--chat", metavar="TEXT", help="ask a model that was trained on chats, instead of a prompt"
    )
    parser.add_argument(
        "--prompts",
        metavar="FILE",
        type=Path,
        help='many prompts: .txt with one per line, or .jsonl with "prompt"; writes JSON lines in their order',
    )
    parser.add_argument(
        "--output",
        metavar="FILE",
        type=Path,
        help="with --prompts: write there, as far as it comes if it is stopped",
    )
    parser.add_argument(
        "--samples",
        metavar="N",
        type=whole_number(1),
        default=1,
        help="texts per prompt, with seeds from --seed on",
    )
    add_sampling(parser)
    parser.add_argument(
        "--draft",
        metavar="CHECKPOINT",
        type=Path,
        help="a smaller model of the same tokenizer, which proposes tokens",
    )
    parser.add_argument(
        "--draft-tokens", metavar="N", type=whole_number(1), default=4, help="proposed at a time; default 4"
    )
    parser.add_argument(
        "--kv-page-size",
        metavar="N",
        type=whole_number(1),
        help="let the key-value cache grow by pages of N tokens: less memory for texts that end early, same text",
    )
    parser.add_argument("--device", choices=("auto", "cuda", "mps", "cpu"), default="auto")
    add_json(parser)
    parser.add_argument(
        "--logprobs",
        metavar="N",
        type=whole_number(0),
        help="with JSON: the log-probability of each token, and of the N likeliest in its place",
    )


def add_sampling(parser: argparse.ArgumentParser) -> None:
    """Declare how tokens are drawn, and where the text ends."""
    parser.add_argument("--max-new-tokens", metavar="N", type=int, default=256, help="default 256")
    parser.add_argument(
        "--temperature", metavar="X", type=float, default=0.8, help="0 takes the likeliest; default 0.8"
    )
    parser.add_argument(
        "--top-k", metavar="K", type=int, default=40, help="among the K likeliest; 0: all; default 40"
    )
    parser.add_argument("--top-p", metavar="P", type=float, help="among the likeliest that reach P together")
    parser.add_argument("--min-p", metavar="P", type=float, help="among those P times as likely as the likeliest")
    parser.add_argument(
        "--repetition-penalty", metavar="X", type=float, default=1.0, help="above 1 repeats less; default 1"
    )
    parser.add_argument(
        "--stop", metavar="TEXT", action="append", default=[], help="end before it; may come again"
    )
    parser.add_argument(
        "--seed", metavar="N", type=whole_number(0), default=0, help="same seed, same text; default 0"
    )


def run(args: argparse.Namespace) -> None:
    """Generate and print."""
    from rich.console import Console
    from rich.progress import track

    from candlewick.generate.batch import Job, write

    prompts, config = _prompts(args), _sampling(args)
    engine, tokenizer = _load(args)
    ids = [_encode(tokenizer, prompt, is_chat=args.chat is not None) for prompt in prompts]
    before = "" if args.chat is not None else args.prompt
    if args.prompts is None and args.samples == 1 and not args.json:
        _stream(engine, tokenizer, ids[0], config, args.seed, before)
        return
    seeds = range(args.seed, args.seed + args.samples)
    jobs = [Job(prompt, seed) for prompt in ids for seed in seeds]
    texts = write(engine, tokenizer, jobs, config, args.logprobs)
    console = Console(stderr=True)
    is_plain = not console.is_terminal
    written = track(texts, "texts", len(jobs), console=console, transient=True, disable=is_plain)
    ordered = ({"prompt": prompts[number // args.samples], **result} for number, result in _in_order(written))
    if args.prompts is not None:
        _write_lines(ordered, args.output)
        return
    results = list(ordered)
    if args.json:
        print_json(results[0] if args.samples == 1 else results)
    else:
        for result in results:
            sys.stdout.write(f"--- seed {result['seed']}\n{before}{shown(result['text'])}\n")


def _prompts(args: argparse.Namespace) -> list[str]:
    """Return what to write after. Raises ConfigError for arguments that conflict, DataError for the file."""
    given = [value for value in (args.prompt or None, args.chat, args.prompts) if value is not None]
    if len(given) > 1:
        raise ConfigError("a prompt, --chat and --prompts exclude each other", "give one of them")
    if args.output is not None and args.prompts is None:
        raise ConfigError("--output is for the texts of --prompts", "add --prompts FILE, or redirect the output")
    if args.logprobs is not None and args.prompts is None and not args.json:
        raise ConfigError("--logprobs are part of the JSON output", "add --json")
    if args.prompts is None:
        return [args.chat if args.chat is not None else args.prompt]
    kind = args.prompts.suffix.lower()
    if kind not in (".txt", ".jsonl"):
        raise ConfigError(f"{args.prompts} is no file of prompts", "give a .txt or .jsonl file")
    try:
        lines = args.prompts.read_text(encoding="utf-8").split("\n")
        lines = lines if lines[-1] else lines[:-1]
        prompts = [json.loads(line)["prompt"] for line in lines] if kind == ".jsonl" else lines
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(
            f"{args.prompts} holds no prompts: {type(error).__name__} {error}",
            'each .jsonl line is {"prompt": "..."}',
        ) from None
    if not all(isinstance(prompt, str) for prompt in prompts):
        raise DataError(f'{args.prompts}: a "prompt" is no text', 'each .jsonl line is {"prompt": "..."}')
    return prompts


def _sampling(args: argparse.Namespace) -> "SampleConfig":
    from pydantic import ValidationError

    from candlewick.config import SampleConfig

    names = ("max_new_tokens", "temperature", "top_p", "min_p", "repetition_penalty")
    try:
        given = {name: getattr(args, name) for name in names}
        return SampleConfig(top_k=args.top_k or None, stop=tuple(args.stop), **given)
    except ValidationError as error:
        problem = error.errors()[0]
        flag = "--" + str(problem["loc"][0]).replace("_", "-")
        raise ConfigError(f"{flag}: {problem['msg']}") from None


def _load(args: argparse.Namespace) -> "tuple[Engine, Tokenizer]":
    """Load the checkpoint, and the draft model. Raises CheckpointError unless both have one tokenizer."""
    from candlewick.checkpoint.load import load_for_inference
    from candlewick.generate.engine import Engine
    from candlewick.generate.speculative import SpeculativeEngine
    from candlewick.parallel.device import find_device

    device = find_device(args.device)
    model, tokenizer = load_for_inference(args.checkpoint, device)
    if args.draft is None:
        return Engine(model, tokenizer.vocab_size, args.kv_page_size), tokenizer
    draft, other = load_for_inference(args.draft, device)
    if other.sha256 != tokenizer.sha256:
        raise CheckpointError(
            f"{args.draft} has the tokenizer {other.sha256[:16]}, {args.checkpoint} has {tokenizer.sha256[:16]}",
            "draft with a model that was trained with the same tokenizer",
        )
    engine = SpeculativeEngine(model, draft, tokenizer.vocab_size, args.draft_tokens, args.kv_page_size)
    return engine, tokenizer


def _encode(tokenizer: "Tokenizer", prompt: str, *, is_chat: bool) -> list[int]:
    if not is_chat:
        return [tokenizer.delimiter_id, *tokenizer.encode(prompt)]
    from candlewick.tokenizer.chat import encode_chat

    messages = [{"role": "user", "content": prompt}]
    return encode_chat(tokenizer, messages, add_generation_prompt=True)[0]


def _stream(
    engine: "Engine", tokenizer: "Tokenizer", ids: list[int], config: "SampleConfig", seed: int, before: str
) -> None:
    from candlewick.generate.engine import stream

    for piece in stream(engine, tokenizer, ids, config, seed=seed):
        sys.stdout.write(before + shown(piece))
        sys.stdout.flush()
        before = ""
    sys.stdout.write("\n")


def _in_order(written: Iterable[tuple[int, Json]]) -> Iterator[tuple[int, Json]]:
    """Yield what comes in any order by its number from 0 on, each as soon as all before it are there."""
    waiting: dict[int, Json] = {}
    number = 0
    for place, result in written:
        waiting[place] = result
        while number in waiting:
            yield number, waiting.pop(number)
            number += 1


def _write_lines(results: Iterator[Json], output: Path | None) -> None:
    """Write each result when it is there."""
    first = list(islice(results, 1))  # a prompt that cannot be read is told before the file is touched
    with nullcontext(sys.stdout) if output is None else output.open("w", encoding="utf-8") as file:
        for result in chain(first, results):
            file.write(json.dumps(result, ensure_ascii=False) + "\n")
            file.flush()
