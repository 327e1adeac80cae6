"""The seed's streaming, in flags or in a file beside the configuration, as settings of ours.

    streaming_config.json    {"dataset": "OWNER/NAME", "split": "train", "max_samples": N, "stream_batch_size": N}

The text then is that of a dataset on the Hub. What is held out for validation is a part of it.
"""

import json
from pathlib import Path
from typing import Any

from candlewick.cli.arguments import tell
from candlewick.errors import ConfigError

DATASET = "HuggingFaceFW/fineweb"
BATCH_NOTE = "the text comes in whole files, which are read row by row"
_KEYS = ("dataset", "split", "max_samples", "stream_batch_size")


def stream_settings(dataset: str, split: str, max_samples: int | None) -> list[str]:
    """Return the overrides that make a run read this text."""
    uri = dataset if dataset.startswith("hf://") else f"hf://datasets/{dataset}"
    values = {"data.train_shards": [uri], "data.hub_split": split, "data.max_documents": max_samples}
    return [f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in values.items()]


def beside(config: str) -> list[str]:
    """Return the overrides of a streaming_config.json beside a config, and tell of it. Raises ConfigError."""
    path = Path(config).parent / "streaming_config.json"
    if not (Path(config).is_file() and path.is_file()):
        return []
    try:
        given: dict[str, Any] = {k: v for k, v in json.loads(path.read_bytes()).items() if v is not None}
    except (ValueError, AttributeError, RecursionError) as error:
        raise ConfigError(f"{path} is not a JSON object: {str(error)[:80]}", "correct it, or remove it") from None
    if given.keys() - set(_KEYS) or not given.get("dataset"):
        raise ConfigError(
            f"{path} should have a dataset, and no keys but {', '.join(_KEYS)}", "correct or remove it"
        )
    settings = stream_settings(str(given["dataset"]), given.get("split", "train"), given.get("max_samples"))
    idle = f"; stream_batch_size changes nothing: {BATCH_NOTE}" if "stream_batch_size" in given else ""
    tell(f"{path} is read: {', '.join(settings)}; a part of that text is held out for validation{idle}")
    return [*settings, "data.validation_shards=[]"]
