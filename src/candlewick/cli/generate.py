"""`candlewick generate`: generate text with a checkpoint, streamed, several times, or for many prompts."""

import argparse
import json
import sys
import time
from collections.abc import Iterator
from contextlib import nullcontext
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from candlewick.cli.arguments import add_checkpoint, add_count, add_option, add_reporting, setup_logging
from candlewick.cli.output import emit_json, escape_for_terminal
from candlewick.errors import ConfigError

if TYPE_CHECKING:
    from candlewick.runs.generate import TextGenerator


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add_checkpoint(parser)
    parser.add_argument("prompt", nargs="?", default="", help="text to continue; default: begin a new document")
    add = partial(add_option, parser)
    add("--chat", "TEXT", "a user's message, for a model that was trained on chats; in place of a prompt")
    about = 'file of prompts: .txt with one per line, or .jsonl with "prompt"; prints JSON lines in their order'
    add("--prompts", "FILE", about, type=Path)
    add("--output", "FILE", "with --prompts: file for the results, each written when it is ready", type=Path)
    add_count(parser, "--samples", "texts per prompt; their seeds count up from --seed", default=1)
    add_sampling(parser)
    add("--draft", "CHECKPOINT", "smaller model with the same tokenizer, for speculative decoding", type=Path)
    add_count(parser, "--draft-tokens", "number of tokens that the draft model proposes at a time", default=4)
    add_count(parser, "--kv-page-size", "grow the key-value cache in pages of N tokens, to save memory")
    add_reporting(parser)
    add_count(
        parser, "--logprobs", "add to JSON output: log-probabilities of each token and the N likeliest", least=0
    )


def add_sampling(parser: argparse.ArgumentParser) -> None:
    """Declare the flags that `sampling_arguments` reads, and `--seed`."""
    add = partial(add_option, parser)
    add("--max-new-tokens", "N", "maximum number of new tokens", type=int, default=256)
    model = "default: as generation_config.json says, else"
    add("--temperature", "X", f"sampling temperature; 0: always the most likely token; {model} 0.8", type=float)
    add("--top-k", "K", f"sample from the K most likely tokens; 0: from all; {model} 40", type=int)
    about = f"sample from the most likely tokens whose probabilities add up to P; {model} 1"
    add("--top-p", "P", about, type=float)
    about = f"sample from tokens with at least P times the highest probability; {model} 0"
    add("--min-p", "P", about, type=float)
    add("--repetition-penalty", "X", f"above 1: repeat tokens less often; {model} 1", type=float)
    add("--stop", "TEXT", "end before this text; repeatable", action="append", default=[])
    add_count(parser, "--seed", "random seed; the same seed gives the same text", default=0, least=0)


def run(args: argparse.Namespace) -> None:
    """Generate and print."""
    from candlewick.runs.generate import TextGenerator, read_prompts

    _check_arguments(args)
    setup_logging(args)
    is_chat = args.chat is not None
    prompts = [args.chat if is_chat else args.prompt] if args.prompts is None else read_prompts(args.prompts)
    given = sampling_arguments(args)
    options = {"draft": args.draft, "draft_tokens": args.draft_tokens, "page_size": args.kv_page_size}
    generator = TextGenerator.load(args.checkpoint, args.device, **options)
    config = generator.sampling(given)
    start = time.perf_counter()
    prefix = "" if is_chat else args.prompt
    if args.prompts is None and args.samples == 1 and not args.json:
        generation = generator.stream(prompts[0], config, args.seed, is_chat=is_chat)
        for piece in generation:
            sys.stdout.write(prefix + escape_for_terminal(piece))
            sys.stdout.flush()
            prefix = ""
        sys.stdout.write("\n")
        sys.stdout.flush()
        end = [{"stop": generation.stop, "num_tokens": generation.num_tokens}]
        _tell_end(args, end, generator, time.perf_counter() - start)
        return
    seeds = range(args.seed, args.seed + args.samples)
    texts = generator.generate(prompts, config, seeds, is_chat=is_chat, logprobs=args.logprobs)
    if args.prompts is not None:
        ends = _write_lines(texts, args.output)
        _tell_end(args, ends, generator, time.perf_counter() - start)
        return
    results = list(texts)
    _tell_end(args, results, generator, time.perf_counter() - start)
    if not emit_json(args, results[0] if args.samples == 1 else results):
        for result in results:
            sys.stdout.write(f"--- seed {result['seed']}\n{prefix}{escape_for_terminal(result['text'])}\n")


def _tell_end(
    args: argparse.Namespace, ends: list[dict[str, Any]], generator: "TextGenerator", seconds: float
) -> None:
    """Say on standard error, unless quiet, how fast the texts were written, and if the context stopped them."""
    if args.log_level == "warning":
        return
    num_full = sum(end["stop"] == "context" for end in ends)
    if num_full:
        which = "" if len(ends) == 1 else f" in {num_full:,} of {len(ends):,} texts"
        sys.stderr.write(f"stopped: the context of {generator.engine.max_positions:,} tokens is full{which}\n")
    speed = sum(end["num_tokens"] for end in ends) / max(seconds, 1e-9)
    sys.stderr.write(f"{speed:,.1f} tokens/s\n")


def _check_arguments(args: argparse.Namespace) -> None:
    """Raise ConfigError for arguments that conflict."""
    if sum(value is not None for value in (args.prompt or None, args.chat, args.prompts)) > 1:
        raise ConfigError("a prompt, --chat and --prompts exclude each other", "give one of them")
    if args.output is not None and args.prompts is None:
        raise ConfigError("--output is for the texts of --prompts", "add --prompts FILE, or redirect the output")
    if args.logprobs is not None and args.prompts is None and not args.json:
        raise ConfigError("--logprobs are part of the JSON output", "add --json")


def sampling_arguments(args: argparse.Namespace) -> dict[str, Any]:
    """Return the fields of SampleConfig that are given. Raises ConfigError for a value that cannot be."""
    from candlewick.config import SampleConfig

    names = ("max_new_tokens", "temperature", "top_k", "top_p", "min_p", "repetition_penalty")
    given = {name: value for name in names if (value := getattr(args, name)) is not None}
    given |= {"stop": tuple(args.stop)} | ({"top_k": None} if args.top_k == 0 else {})
    try:
        SampleConfig().replaced(**given)
    except ConfigError as error:
        raise ConfigError(f"--{error.problem.replace('_', '-')}", "see `candlewick generate --help`") from None
    return given


def _write_lines(results: Iterator[dict[str, Any]], output: Path | None) -> list[dict[str, Any]]:
    """Write each result when it is there; return how each ended."""
    first = list(islice(results, 1))  # an unreadable prompt is an error before the file is touched
    ends: list[dict[str, Any]] = []
    with nullcontext(sys.stdout) if output is None else output.open("w", encoding="utf-8") as file:
        for result in chain(first, results):
            file.write(json.dumps(result, ensure_ascii=False) + "\n")
            file.flush()
            ends.append({name: result[name] for name in ("stop", "num_tokens")})
    return ends
