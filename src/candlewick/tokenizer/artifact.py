"""A tokenizer artifact is a folder that Hugging Face readers load, with a manifest of its training.

tokenizer.json  tokenizer_config.json  vocab.json  merges.txt  manifest.json (kind "tokenizer", version 1)
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from candlewick.artifacts.manifest import Manifest, provenance, publish, staging, write_durable
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
    # vocab.json and merges.txt for older readers; no token of a byte-level tokenizer holds a space
    model = json.loads(tokenizer.json_bytes)["model"]
    vocab = json.dumps(model["vocab"], ensure_ascii=False, separators=(",", ":"))
    merges = "".join(f"{' '.join(pair)}\n" for pair in model["merges"])
    with staging(output) as folder:
        files = (
            *tokenizer.write(folder),
            write_durable(folder / VOCAB_JSON, vocab.encode()),
            write_durable(folder / MERGES_TXT, f"#version: 0.2\n{merges}".encode()),
        )
        return publish(folder, output, Manifest(KIND, VERSION, inputs, config, files, details, origin))
