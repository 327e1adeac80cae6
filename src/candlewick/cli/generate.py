"""`candlewick generate`: generate text with a checkpoint, streamed, several times, or for many prompts."""

import argparse
import json
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any

from candlewick.cli.arguments import add_checkpoint, add_count, add_json, add_option
from candlewick.cli.output import emit_json, escape_for_terminal
from candlewick.errors import ConfigError


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
    add("--draft", "CHECKPOINT", "smaller model with the same tokenizer, for speculative decoding", type=Path)
    add_count(parser, "--draft-tokens", "number of tokens that the draft model proposes at a time", default=4)
    add_count(parser, "--kv-page-size", "grow the key-value cache in pages of N tokens, to save memory")
    add_json(parser)
    add_count(
        parser, "--logprobs", "add to JSON output: log-probabilities of each token and the N likeliest", least=0
    )


def run(args: argparse.Namespace) -> None:
    """Generate and print."""
    from candlewick.runs.generate import TextGenerator, read_prompts

    _check_arguments(args)
    is_chat = args.chat is not None
    prompts = [args.chat if is_chat else args.prompt] if args.prompts is None else read_prompts(args.prompts)
    given = _sampling_arguments(args)
    options = {"draft": args.draft, "draft_tokens": args.draft_tokens, "page_size": args.kv_page_size}
    generator = TextGenerator.load(args.checkpoint, args.device, **options)
    config = generator.sampling(given)
    prefix = "" if is_chat else args.prompt
    if args.prompts is None and args.samples == 1 and not args.json:
        for piece in generator.stream(prompts[0], config, args.seed, is_chat=is_chat):
            sys.stdout.write(prefix + escape_for_terminal(piece))
            sys.stdout.flush()
            prefix = ""
        sys.stdout.write("\n")
        return
    seeds = range(args.seed, args.seed + args.samples)
    texts = generator.generate(prompts, config, seeds, is_chat=is_chat, logprobs=args.logprobs)
    if args.prompts is not None:
        _write_lines(texts, args.output)
        return
    results = list(texts)
    if not emit_json(args, results[0] if args.samples == 1 else results):
        for result in results:
            sys.stdout.write(f"--- seed {result['seed']}\n{prefix}{escape_for_terminal(result['text'])}\n")


def _check_arguments(args: argparse.Namespace) -> None:
    """Raise ConfigError for arguments that conflict."""
    if sum(value is not None for value in (args.prompt or None, args.chat, args.prompts)) > 1:
        raise ConfigError("a prompt, --chat and --prompts exclude each other", "give one of them")
    if args.output is not None and args.prompts is None:
        raise ConfigError("--output is for the texts of --prompts", "add --prompts FILE, or redirect the output")
    if args.logprobs is not None and args.prompts is None and not args.json:
        raise ConfigError("--logprobs are part of the JSON output", "add --json")


def _sampling_arguments(args: argparse.Namespace) -> dict[str, Any]:
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


def _write_lines(results: Iterator[dict[str, Any]], output: Path | None) -> None:
    """Write each result when it is there."""
    first = list(islice(results, 1))  # an unreadable prompt is an error before the file is touched
    with nullcontext(sys.stdout) if output is None else output.open("w", encoding="utf-8") as file:
        for result in chain(first, results):
            file.write(json.dumps(result, ensure_ascii=False) + "\n")
            file.flush()
