"""A dataset of the Hub that a run reads as its text, as settings. A part of it is held out for validation."""

import json

DATASET = "HuggingFaceFW/fineweb"
BATCH_NOTE = "the text comes in whole files, which are read row by row"


def stream_settings(dataset: str, split: str, max_samples: int | None) -> list[str]:
    """Return the overrides that make a run read this text."""
    uri = dataset if dataset.startswith("hf://") else f"hf://datasets/{dataset}"
    values = {"data.train_shards": [uri], "data.hub_split": split, "data.max_documents": max_samples}
    return [f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in values.items()]
