"""A tokenizer as an artifact: a folder that Hugging Face readers load, with a manifest of how it was made.

    tokenizer.json  tokenizer_config.json  manifest.json (kind "tokenizer", version 1)

`inputs` and `config` come from who made it; `details` say what was counted, `bytes_per_token` on held-out text.
"""

import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from candlewick import __version__
from candlewick.artifacts import Manifest, publish, staging
from candlewick.errors import TokenizerError
from candlewick.tokenizer.bpe import Tokenizer
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
        raise TokenizerError(f"{changed} of {measured['texts']} texts do not survive the tokenizer")
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
        files = tuple(tokenizer.write(aside))
        return publish(aside, output, Manifest(KIND, VERSION, inputs, config, files, details, made))


def provenance(**more: Any) -> dict[str, Any]:
    """Return who made an artifact, where and when: what is not part of its id."""
    return {
        "tool": f"candlewick {__version__}",
        "python": platform.python_version(),
        "platform": platform.platform(),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        **more,
    }
