"""Train small models with `candlewick train`, and write what every reader must find in their folders.

    python -m tests.readers.prepare FOLDER

FOLDER/cases.json then holds, of each model, its checkpoint folder, prompts with our greedy tokens and the distance
of the two largest logits at each step, and a text, a chat, their ids and our losses of them. All of it comes from
this package; no reader is asked. The text is the source of Python's standard library.
"""

import argparse
import json
import os
import subprocess
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from candlewick.checkpoint.load import load_for_inference
from candlewick.checkpoint.open import Checkpoint
from candlewick.config import DataConfig, SampleConfig
from candlewick.generate.engine import Engine
from candlewick.model.transformer import Transformer
from candlewick.runs.evaluate import evaluate_checkpoint
from candlewick.tokenizer.bpe import Tokenizer
from candlewick.tokenizer.chat import encode_chat
from candlewick.train.objective import NextTokenLoss

CONTEXT = 128
NEW_TOKENS = 64
PROMPTS = ("", "def ", "import os\n\n\nclass ", "The ")
MODULES = "bisect fnmatch keyword reprlib sched textwrap".split()
CHAT = [
    {"role": "user", "content": "What is a list?"},
    {"role": "assistant", "content": "A list is no tuple."},
    {"role": "user", "content": "And a string?"},
    {"role": "assistant", "content": "It is a string."},
]
GROUPED = {"model.num_attention_heads": 4, "model.num_key_value_heads": 2}
LLAMA = {"model.qk_norm": False}
UNTIED = {"model.tie_word_embeddings": False}
MODELS: dict[str, dict[str, Any]] = {
    "qwen3": {},
    "qwen3-untied": {**GROUPED, **UNTIED},
    "llama": {**GROUPED, **LLAMA, "model.hidden_size": 256},
    "llama-untied": {**LLAMA, **UNTIED},
    "silu": {**LLAMA, "model.mlp": "silu", "model.mlp_bias": True},
    "silu-untied": {**LLAMA, **UNTIED, "model.mlp": "silu", "model.mlp_bias": True},
}
BASE: dict[str, Any] = {
    "tokenizer.vocab_size": 1024,  # rows as well; the chat model has 1,026 tokens and 1,088 rows
    "model.hidden_size": 128,
    "model.num_layers": 2,
    "model.num_attention_heads": 2,
    "model.head_dim": 64,  # the smallest that every reader computes with
    "model.max_position_embeddings": CONTEXT,
    "data.micro_batch_size": 4,
    "data.num_workers": 1,
    "data.validation_fraction": 0.05,
    "optimizer.algorithm": "adam_w",
    "optimizer.learning_rate": 6e-3,
    "scheduler.total_steps": 300,
    "runtime.device": "cpu",
    "runtime.evaluation.every_n_steps": None,
    "runtime.checkpoint.every_n_steps": None,
    "runtime.sample": None,
    "runtime.logging.enable_stdout": False,
}
"""What all models have in common."""


def write_text(folder: Path) -> Path:
    """Copy 40 kB of the standard library, so little that 300 steps learn it, and return their folder."""
    text = folder / "text"
    text.mkdir()
    for name in MODULES:
        (text / f"{name}.txt").write_bytes((Path(sysconfig.get_path("stdlib")) / f"{name}.py").read_bytes())
    return text


def write_chats(folder: Path) -> Path:
    """Write conversations to learn from, all of one kind, and return their file."""
    things = "list tuple set dict string number module function class object file path loop".split()
    chats = []
    for number in range(400):
        first, second = things[number % 13], things[number * 7 % 11]
        turns = [f"What is a {first}?", f"A {first} is no {second}.", f"And a {second}?", f"It is a {second}."]
        roles = ("user", "assistant", "user", "assistant")
        chats.append([{"role": r, "content": said} for r, said in zip(roles, turns, strict=True)])
    path = folder / "chats.jsonl"
    path.write_text("".join(json.dumps({"messages": chat}) + "\n" for chat in chats))
    return path


def train(run_dir: Path, settings: dict[str, Any], *flags: str) -> Path:
    """Train a model with the verb, on one core, and return its checkpoint folder."""
    overrides = [f"{key}={json.dumps(value)}" for key, value in settings.items()]
    words = [word for override in overrides for word in ("--override", override)]
    command = [sys.executable, "-m", "candlewick", "train", "--run-dir", str(run_dir), "--quiet", *flags, *words]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"training {run_dir.name} ended with code {done.returncode}: {done.stderr[-1000:]}")
    return Checkpoint.open(run_dir, need={"weights"}).folder


def train_all(folder: Path) -> dict[str, Path]:
    """Train every model, two at a time, and one more on chats that starts from the first.

    Returns their checkpoint folders.
    """
    common = {**BASE, "data.cache_dir": str(folder / "cache")}
    text = {"data.train_shards": [str(write_text(folder))]}
    chat = {"data.train_shards": [str(write_chats(folder))], "data.format": "chat", "scheduler.total_steps": 60}
    runs = folder / "runs"
    with ThreadPoolExecutor(2) as pool:
        training = {
            name: pool.submit(train, runs / name, {**common, **text, **own}) for name, own in MODELS.items()
        }
        folders = {name: future.result() for name, future in training.items()}
    settings = {**common, **chat}
    del settings["tokenizer.vocab_size"]  # the chat model has its parent's tokenizer, with two more tokens
    start = ("--init-from", str(runs / "qwen3"))
    return {**folders, "qwen3-chat": train(runs / "qwen3-chat", settings, *start)}


def greedy(model: Transformer, tokenizer: Tokenizer, ids: list[int]) -> dict[str, Any]:
    """Return what `candlewick generate --temperature 0` says, and the margin of each of its tokens.

    The tokens end with the first that ends a text. A margin is the largest logit less the second.
    """
    config = SampleConfig().replaced(temperature=0.0, max_new_tokens=NEW_TOKENS, top_k=None)
    tokens: list[int] = []
    margins: list[float] = []
    for step in Engine(model, tokenizer.vocab_size).steps([ids], config, [0]):
        largest, second = step.logits[0].double().topk(2).values.tolist()
        tokens += step.ids
        margins.append(largest - second)
        if tokens[-1] in tokenizer.stop_ids:
            break
    return {"ids": ids, "tokens": tokens, "margins": margins}


def find_text(tokenizer: Tokenizer, source: str, count: int) -> tuple[str, list[int]]:
    """Return a part of a text, of `count` tokens, that is encoded alone as it is inside the text."""
    ids = tokenizer.encode(source)
    for start in range(len(ids) - count):
        text = tokenizer.decode(ids[start : start + count])
        if tokenizer.encode(text) == ids[start : start + count]:
            return text, ids[start : start + count]
    raise SystemExit(f"no {count} tokens of the text are encoded alone as they are inside it")


def score(model: Transformer, tokenizer: Tokenizer, ids: list[int]) -> dict[str, Any]:
    """Return ids, and the mean loss, in nats, of all ids but the first: over all tokens, and over all rows.

    Rows of the embedding without a token take no part in our loss; other programs do not know of them.
    """
    tokens = torch.tensor([ids])
    result: dict[str, Any] = {"ids": ids}
    for name, num_tokens in (("loss", tokenizer.vocab_size), ("loss_of_all_rows", model.vocab_size)):
        losses, _ = NextTokenLoss(model, num_tokens=num_tokens).token_losses(tokens[:, :-1], tokens[:, 1:])
        result[name] = losses.double().mean().item()
    return result


def evaluate(checkpoint: Path, text: str, folder: Path) -> dict[str, float]:
    """Return what `candlewick eval` measures on a text that fills four contexts."""
    path = folder / "eval.txt"
    path.write_text(text, encoding="utf-8", newline="")
    data = DataConfig(train_shards=(str(path),), cache_dir=folder / "cache")
    figures = evaluate_checkpoint(checkpoint, data, device="cpu")
    assert figures["eval/tokens"] == 4 * CONTEXT
    return {"loss": figures["eval/loss"], "tokens": figures["eval/tokens"]}


def describe(checkpoint: Path, folder: Path) -> dict[str, Any]:
    """Return what every reader must find in a checkpoint folder."""
    model, tokenizer = load_for_inference(checkpoint, torch.device("cpu"))
    source = (folder / "text" / "textwrap.txt").read_text(encoding="utf-8")
    # with the token that ends it, it fills contexts: no window of any program is shorter, or overlaps another
    text, ids = find_text(tokenizer, source, 4 * CONTEXT - 1)
    short, short_ids = find_text(tokenizer, source, CONTEXT - 2)  # vLLM writes a token after it
    start = tokenizer.delimiter_id
    prompts = [[start, *tokenizer.encode(prompt)] for prompt in PROMPTS]
    case: dict[str, Any] = {
        "folder": str(checkpoint),
        "context": CONTEXT,
        "new_tokens": NEW_TOKENS,
        "text": text,
        "text_ids": ids,
        "short_text": short,
        "losses": {
            "after the delimiter": score(model, tokenizer, [start, *short_ids]),
            "before the delimiter": score(model, tokenizer, [*short_ids, start]),
        },
    }
    if tokenizer.chat_ids is None:
        case["eval"] = evaluate(checkpoint, text, folder)
    else:
        case["messages"] = CHAT
        case["losses"]["chat"] = score(model, tokenizer, encode_chat(tokenizer, CHAT)[0])
        prompts.append(encode_chat(tokenizer, CHAT[:1], add_generation_prompt=True)[0])
    case["prompts"] = [greedy(model, tokenizer, prompt) for prompt in prompts]
    return case


def main(arguments: list[str] | None = None) -> None:
    """Train, compute, and write cases.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args(arguments).folder
    cases = {name: describe(checkpoint, folder) for name, checkpoint in train_all(folder).items()}
    (folder / "cases.json").write_text(json.dumps(cases))


if __name__ == "__main__":
    main()
