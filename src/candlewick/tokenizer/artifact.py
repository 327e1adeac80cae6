"""A tokenizer artifact is a folder that Hugging Face readers load, with a manifest of its training.

tokenizer.json  tokenizer_config.json  vocab.json  merges.txt  manifest.json (kind "tokenizer", version 1)
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

from candlewick.artifacts.build import Recipe
from candlewick.artifacts.manifest import Manifest, provenance, publish, staging, write_durable
from candlewick.errors import TokenizerError
from candlewick.tokenizer.bpe import Tokenizer
from candlewick.tokenizer.files import MERGES_TXT, VOCAB_JSON
from candlewick.tokenizer.train import TrainReport

KIND = "tokenizer"
VERSION = 1


def write_artifact(
    tokenizer: Tokenizer,
    report: TrainReport,
    heldout: Sequence[str],
    output: Path,
    recipe: Recipe,
) -> Manifest:
    """Measure a trained tokenizer on held-out texts and write it as an artifact at `output`.

    Raises TokenizerError if it changes a text, ArtifactError if something else is at `output`.
    """
    measurement = measure(tokenizer, heldout)
    if changed := measurement["changed_texts"]:
        raise TokenizerError(
            f"{changed} of {measurement['texts']} texts do not survive the tokenizer",
            "report this with the text: a byte-level tokenizer loses none",
        )
    training = asdict(report)
    seconds = training.pop("seconds")
    details = {
        **training,
        "too_small": report.too_small,
        "pattern": tokenizer.pattern,
        "delimiter_id": tokenizer.delimiter_id,
        "padding_id": tokenizer.padding_id,
        "heldout": measurement,
    }
    origin = provenance(encoder=f"tokenizers {version('tokenizers')}", seconds=round(seconds, 3))
    model = json.loads(tokenizer.json_bytes)["model"]
    vocab = json.dumps(model["vocab"], ensure_ascii=False, separators=(",", ":"))
    merges = "".join(f"{' '.join(pair)}\n" for pair in model["merges"])
    with staging(output) as folder:
        files = (
            *tokenizer.write(folder),
            # for older readers; no token of a byte-level tokenizer holds a space
            write_durable(folder / VOCAB_JSON, vocab.encode()),
            write_durable(folder / MERGES_TXT, f"#version: 0.2\n{merges}".encode()),
        )
        manifest = Manifest(recipe.kind, recipe.version, recipe.inputs, recipe.config, files, details, origin)
        return publish(folder, output, manifest)


def measure(tokenizer: Tokenizer, texts: Iterable[str]) -> dict[str, float | None]:
    """Return the measures of a tokenizer on texts; a ratio of nothing is None.

    bytes_per_token    the loss per token divided by it compares across tokenizers
    tokens_per_text    the delimiter not counted
    coverage           share of the vocabulary that occurs
    changed_texts      texts that decoding does not restore

    Text that the tokenizer was trained on would flatter it. Raises TokenizerError for text without a UTF-8 form.
    """
    count = num_bytes = num_tokens = changed = 0
    used: set[int] = set()
    for text in texts:
        ids = tokenizer.encode(text)
        count += 1
        num_bytes += len(text.encode())
        num_tokens += len(ids)
        used.update(ids)
        changed += tokenizer.decode(ids) != text
    return {
        "texts": count,
        "bytes": num_bytes,
        "tokens": num_tokens,
        "bytes_per_token": round(num_bytes / num_tokens, 4) if num_tokens else None,
        "tokens_per_text": round(num_tokens / count, 2) if count else None,
        "coverage": round(len(used) / tokenizer.vocab_size, 4),
        "changed_texts": changed,
    }
