"""The card of a run: README.md in its folder and in each checkpoint, as the Hugging Face Hub shows it.

YAML between two lines of `---` for the Hub's search, then Markdown for people, all from the files of the run. It
is in no manifest: equal checkpoints stay equal. Paths on this machine are left out, since cards are made to be
published, and text of others is escaped.
"""

import json
import logging
import os
import re
import shlex
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from candlewick.artifacts.manifest import read_bounded, replace_durable
from candlewick.config import RunConfig
from candlewick.config.tree import differences
from candlewick.errors import CandlewickError
from candlewick.hub import SCHEME, parse_uri
from candlewick.runs.history import Curve, RunHistory, planned_end
from candlewick.terminal import one_line, printable

CARD = "README.md"
_BARS = "▁▂▃▄▅▆▇█"
_SPECIAL = re.compile(r"([\\`*_\[\](){}<>#|&~!$@:]|(?<=www)\.)")  # of Markdown, HTML, tables and addresses
_FIGURES = {
    "bits_per_byte": "bits per byte",
    "loss": "loss (nats per token)",
    "perplexity": "perplexity",
    "accuracy": "accuracy of the likeliest token",
}
_PROMPT = "Once"
_SPARK_WIDTH, _MAX_FILES, _MAX_SAMPLES, _MAX_SAMPLE_CHARS = 40, 50, 4, 600
_TOKENS_PER_PARAMETER = 20  # arXiv:2203.15556
_FAILURES = (ArithmeticError, AttributeError, CandlewickError, LookupError, OSError, RuntimeError, TypeError)

logger = logging.getLogger(__name__)


def write_cards(run_dir: Path, checkpoint: Path) -> None:
    """Write the card of a run, and of its checkpoint, or warn: no card is a reason to end a run."""
    try:
        history = RunHistory.read(run_dir)
        for folder in (checkpoint, run_dir):
            replace_durable(folder / CARD, card(history, folder, checkpoint).encode(errors="replace"))
    except (*_FAILURES, ValueError) as error:
        logger.warning("the card %s could not be written: %s", run_dir / CARD, error)


def card(history: RunHistory, folder: Path, checkpoint: Path) -> str:
    """Return the card of a checkpoint of a run, whose paths are relative to `folder`."""
    model = json.loads(read_bounded(checkpoint / "config.json"))
    is_portable = model["model_type"] != "candlewick"
    place = os.path.relpath(checkpoint.resolve(), folder.resolve())
    parts = (
        [f"# {escaped(history.name)}", _introduction(history)],
        ["## Text", *_text(history)],
        ["## Model and training", *_recipe(history, model)],
        ["## Evaluation", *_evaluation(history)],
        ["## Samples", *_samples(history)],
        ["## Use", *_use(place, is_portable=is_portable)],
        ["## Limits", *_limits(history)],
    )
    body = "\n\n".join(paragraph for part in parts for paragraph in part)
    return f"---\n{front_matter(history, is_portable=is_portable)}---\n\n{body}\n"


def front_matter(history: RunHistory, *, is_portable: bool) -> str:
    """Return the metadata as YAML, each value as the JSON that it also is."""
    parent = history.config.runtime.checkpoint.init_from
    datasets = sorted({parse_uri(uri).name for uri in history.record.sources if uri.startswith(SCHEME)})
    metadata: dict[str, Any] = {
        "library_name": "transformers" if is_portable else "candlewick",
        "pipeline_tag": "text-generation",
        "tags": ["candlewick"],
    }
    metadata |= {"datasets": datasets} if datasets else {}
    metadata |= {"base_model": parse_uri(parent).name} if parent and parent.startswith(SCHEME) else {}
    _, figures = history.evaluation
    if metrics := [{"type": n, "name": t, "value": figures[n]} for n, t in _FIGURES.items() if n in figures]:
        dataset = {"type": datasets[0] if len(datasets) == 1 else "text", "name": "held-out text"}
        task = {"type": "text-generation", "name": "Text generation"}
        results = [{"task": task, "dataset": dataset, "metrics": metrics}]
        metadata["model-index"] = [{"name": one_line(history.name), "results": results}]
    return "".join(f"{key}: {json.dumps(value, ensure_ascii=False)}\n" for key, value in metadata.items())


def escaped(text: str) -> str:
    """Return text that Markdown shows as it is, in one line and in a table too."""
    return _SPECIAL.sub(r"\\\1", one_line(text))


def _fenced(text: str, language: str = "") -> str:
    """Return text in a fence that is longer than any in it."""
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence}{language}\n{printable(text).rstrip()}\n{fence}"


def _table(head: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    names = list(head)
    lines = [names, ["---"] * len(names), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def _introduction(history: RunHistory) -> str:
    parameters, sources = history.record.parameters, ", ".join(map(escaped, history.record.sources))
    size = f"of {parameters:,} parameters " if parameters else ""
    parent = history.config.runtime.checkpoint.init_from
    known = escaped(parent) if parent and parent.startswith(SCHEME) else "another checkpoint"
    begin = f", from the weights of {known} on" if parent else ""
    return (
        f"A language model {size}trained with Candlewick on {sources or 'text that its run does not name'}{begin}."
    )


def _text(history: RunHistory) -> Iterator[str]:
    splits = [
        [escaped(name), split, *(f"{counts.get(n) or 0:,}" for n in ("documents", "text_bytes", "tokens"))]
        for name, text in history.record.text.items()
        for split, counts in text.splits.items()
    ]
    yield _table(("dataset", "split", "documents", "bytes", "tokens"), splits)
    sides = [side for text in history.record.text.values() for side in text.files.values()]
    files, count = [file for side in sides for file in side.files][:_MAX_FILES], sum(s.num_files for s in sides)
    rows = [[escaped(name), f"{size:,}", f"`{escaped(sha[:16])}`"] for name, size, sha in files]
    about = f"{count:,} files" if count == len(files) else f"{len(files)} of {count:,} files"
    table = _table(("file", "bytes", "hash (first 16 digits)"), rows)
    yield f"<details><summary>{about}</summary>\n\n{table}\n\n</details>"
    ids = ", ".join(f"`{escaped(text.dataset[:16])}`" for text in history.record.text.values())
    yield f"Token datasets: {ids}. Tokenizer: `{escaped(history.record.tokenizer[:16])}`."


def _recipe(history: RunHistory, model: dict[str, Any]) -> Iterator[str]:
    counters, config, start = history.counters, history.config, (history.record.starts or [{}])[-1]
    total, tokens = history.total_steps, counters.get("tokens", history.figure("data/tokens").last or 0)
    cores, torch = start.get("cores"), f"torch {start['torch']}" if "torch" in start else ""
    machine = (history.state.get("device"), start.get("processor"), cores and f"{cores} cores")
    rows = {
        "class": model["architectures"][0],
        "layers, width": f"{config.model.num_layers}, {config.model.hidden_size}",
        "context": f"{config.model.max_position_embeddings:,} tokens",
        "vocabulary": f"{model['vocab_size']:,} rows",
        "steps": f"{history.steps:,} of {planned_end(config) if total is None else f'{total:,}'}",
        "tokens read": f"{tokens:,.0f}",
        "passes over the text": f"{history.figure('data/epoch').last or 0:.3g}",
        "optimizer": f"{config.optimizer.algorithm}, learning rate {config.optimizer.learning_rate:g}",
        "time in training": f"{counters.get('train_seconds', 0):,.0f} s",
        "machine": ", ".join(escaped(str(name)) for name in machine if name),
        "program": ", ".join(escaped(name) for name in (str(start.get("tool", "")), torch) if name),
    }
    yield _table(("", ""), rows.items())
    if settings := published_settings(config):
        about = "Settings that differ from the defaults, but for places:"
        yield f"{about}\n\n" + _fenced("\n".join(f"{key}: {value}" for key, value in settings.items()), "yaml")
    yield from _curve(history)


def published_settings(config: RunConfig) -> dict[str, str]:
    """Return the settings that differ from the defaults, as JSON, without those that name a place."""
    pairs = differences(RunConfig(), config).items()
    changed = {key: json.dumps(sides["second"], ensure_ascii=False) for key, sides in pairs if "second" in sides}
    return {key: value for key, value in changed.items() if "/" not in value}


def _curve(history: RunHistory) -> Iterator[str]:
    loss = history.smoothed(0.0)
    if not len(loss.steps):
        return
    grid = np.linspace(loss.steps[0], loss.steps[-1], _SPARK_WIDTH)
    spark = sparkline(np.interp(grid, *loss))
    yield f"Training loss, step {loss.steps[0]:,.0f} to {loss.steps[-1]:,.0f}: `{spark}`"
    bits = history.figure("eval/bits_per_byte").finite
    chosen = np.unique(np.linspace(0, len(loss.steps) - 1, 8).round().astype(int))
    steps = np.union1d(loss.steps[chosen], _few(bits, 4).steps)
    losses, known = np.interp(steps, *loss), dict(zip(*bits, strict=True))
    rows = [
        [f"{step:,.0f}", f"{value:.4f}", f"{known[step]:.4f}" if step in known else ""]
        for step, value in zip(steps, losses, strict=True)
    ]
    yield _table(("step", "training loss", "bits per byte"), rows)


def _few(curve: Curve, count: int) -> Curve:
    chosen = np.unique(np.linspace(0, len(curve.steps) - 1, count).round().astype(int)) if len(curve.steps) else []
    return Curve(curve.steps[chosen], curve.values[chosen])


def sparkline(values: Iterable[float]) -> str:
    """Return a bar for each value, from the lowest to the highest."""
    heights = np.array(list(values))
    shares = (heights - heights.min()) / (np.ptp(heights) or 1.0)
    return "".join(_BARS[round(share * (len(_BARS) - 1))] for share in shares)


def _evaluation(history: RunHistory) -> Iterator[str]:
    kind, figures = history.evaluation
    if not figures:
        yield "It was not evaluated yet."
        return
    names = sorted({name.rpartition("/")[0] for name in figures})
    rows = [
        [
            escaped(name) or "held-out text",
            f"{figures.get(f'{name}/tokens'.strip('/'), 0):,.0f}",
            *(f"{figures.get(f'{name}/{figure}'.strip('/'), np.nan):.4f}" for figure in _FIGURES),
        ]
        for name in names
    ]
    yield f"On {'all' if kind == 'final' else 'a part'} of the text that was held out of training:"
    yield _table(("text", "tokens", *_FIGURES.values()), rows)


def _samples(history: RunHistory) -> Iterator[str]:
    steps = list(history.samples)
    chosen = np.unique(np.linspace(0, len(steps) - 1, _MAX_SAMPLES).round().astype(int)) if steps else []
    if not steps:
        yield "None were written."
    for step in (steps[number] for number in chosen):
        text = history.samples[step][0]
        yield f"After step {step:,}:\n\n" + _fenced(text[:_MAX_SAMPLE_CHARS])


def _use(place: str, *, is_portable: bool) -> Iterator[str]:
    if is_portable:
        yield _fenced(
            "import torch\nfrom transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
            f"folder = {place!r}  # from this one; or the name of the repository on the Hub\n"
            "model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)\n"
            "tokenizer = AutoTokenizer.from_pretrained(folder)\n"
            f'ids = tokenizer("{_PROMPT}", return_tensors="pt")\n'
            "print(tokenizer.decode(model.generate(**ids, max_new_tokens=64, do_sample=True)[0]))",
            "python",
        )
    else:
        yield "No class of transformers expresses this model: only Candlewick reads it."
    yield _fenced(shlex.join(["candlewick", "generate", place, _PROMPT]), "sh")


def _limits(history: RunHistory) -> Iterator[str]:
    tokens, parameters = history.figure("data/tokens").last, history.record.parameters
    sources = [text.splits for name, text in history.record.text.items() if not name.startswith("validation")]
    size = sum(splits.get("train", {}).get("text_bytes") or 0 for splits in sources)
    if history.config.data.format != "chat":
        yield "It is a base model: it continues text, and was not taught to follow instructions or to answer."
    yield (
        f"It was trained on {f'{size / 1e6:,.1f} MB of ' if size else ''}text. What it writes may be wrong, and "
        "may repeat that text, with the faults and the views in it. Nothing filters it. It reads at most "
        f"{history.config.model.max_position_embeddings:,} tokens at once."
    )
    if tokens and parameters and history.config.runtime.checkpoint.init_from is None:
        yield (
            f"It read {tokens / parameters:,.2g} tokens per parameter; about {_TOKENS_PER_PARAMETER} are the best "
            "use of a training budget (arXiv:2203.15556). Beside the figures above, nothing was measured."
        )
