"""The streaming_config.json that transformer_candle read beside a configuration: text of the Hub to train on.

{"dataset": "OWNER/NAME", "split": "train", "max_samples": N, "stream_batch_size": N}
"""

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from candlewick.errors import ConfigError


@dataclass(frozen=True, slots=True)
class StreamingConfig:
    """The content of the file."""

    path: Path
    dataset: str
    split: str = "train"
    max_samples: int | None = None
    stream_batch_size: int | None = None


_KEYS = [key.name for key in fields(StreamingConfig)][1:]


def find_streaming_config(config: Path) -> StreamingConfig | None:
    """Return the file beside a configuration; None if there is none. Raises ConfigError if it cannot be used."""
    path = config.parent / "streaming_config.json"
    if not (config.is_file() and path.is_file()):
        return None
    try:
        given: dict[str, Any] = {k: v for k, v in json.loads(path.read_bytes()).items() if v is not None}
    except (ValueError, AttributeError, RecursionError) as error:
        raise ConfigError(f"{path} is not a JSON object: {str(error)[:80]}", "correct it, or remove it") from None
    if given.keys() - set(_KEYS) or not given.get("dataset"):
        raise ConfigError(
            f"{path} should have a dataset, and no keys but {', '.join(_KEYS)}", "correct or remove it"
        )
    return StreamingConfig(path, **given)
