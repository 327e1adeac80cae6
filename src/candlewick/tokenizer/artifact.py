"""A tokenizer as an artifact: a folder that Hugging Face readers load, with a manifest of how it was made.

tokenizer.json  tokenizer_config.json  vocab.json  merges.txt  manifest.json (kind "tokenizer", version 1)
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from candlewick.artifacts.manifest import FileEntry, Manifest, provenance, publish, staging, write_durable
from candlewick.errors import TokenizerError
from candlewick.tokenizer.bpe import Tokenizer
from candlewick.tokenizer.files import MERGES_TXT, VOCAB_JSON
from candlewick.tokenizer.report import measure
from candlewick.tokenizer.train import TrainReport

KIND = "tokenizer"
VERSION = 1


def write_artifact(
    tokenizer: Tokenizer,
    report: TrainReport,
    heldout: Sequence[str],
    output: Path,
    *,
    inputs: Mapping[str, Any],
    config: Mapping[str, Any],
) -> Manifest:
    """Measure a trained tokenizer on held-out texts and write it as an artifact at `output`.

    Raises TokenizerError if a text does not survive it, ArtifactError if `output` is a folder of something else.
    """
    measured = measure(tokenizer, heldout)
    if changed := measured["changed_texts"]:
        raise TokenizerError(
            f"{changed} of {measured['texts']} texts do not survive the tokenizer",
            "report this with the text: a byte-level tokenizer loses none",
        )
    trained = asdict(report)
    seconds = trained.pop("seconds")
    details = {
        **trained,
        "too_small": report.too_small,
        "pattern": tokenizer.pattern,
        "delimiter_id": tokenizer.delimiter_id,
        "padding_id": tokenizer.padding_id,
        "heldout": measured,
    }
    made = provenance(encoder=f"tokenizers {version('tokenizers')}", seconds=round(seconds, 3))
    with staging(output) as aside:
        files = (*tokenizer.write(aside), *write_vocabulary(tokenizer, aside))
        return publish(aside, output, Manifest(KIND, VERSION, inputs, config, files, details, made))


def write_vocabulary(tokenizer: Tokenizer, folder: Path) -> list[FileEntry]:
    """Write the two files that older readers know, of a byte-level tokenizer: no token holds a space."""
    model = json.loads(tokenizer.json_bytes)["model"]
    merges = "".join(f"{' '.join(pair)}\n" for pair in model["merges"])
    vocab = json.dumps(model["vocab"], ensure_ascii=False, separators=(",", ":"))
    return [
        write_durable(folder / VOCAB_JSON, vocab.encode()),
        write_durable(folder / MERGES_TXT, f"#version: 0.2\n{merges}".encode()),
    ]
