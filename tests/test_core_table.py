"""docs/core.md has a row for every mode that a configuration can choose."""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal, get_args, get_origin

from pydantic import BaseModel

from candlewick.config import RunConfig

PAGE = Path(__file__).resolve().parents[1] / "docs" / "core.md"

NO_NUMBERS = {
    "runtime.device": "what runs on another device is in tests/gpu",
    "runtime.logging.level": "which messages are shown",
    "data.documents": "checked text by text in tests/unit/data/test_documents.py",
    "data.bad_utf8": "checked byte by byte in tests/unit/data/test_documents.py",
}
NUMBERS = [
    "model.partial_rotary_factor",
    "model.sliding_window",
    "model.attention_bias",
    "model.mlp_bias",
    "model.num_key_value_heads",
    "data.document_mask",
    "data.deduplicate",
    "data.mixture",
    "data.micro_batch_size",
    "data.batch_ramp",
    "optimizer.normuon_beta2",
    "optimizer.cautious_decay",
    "optimizer.learning_rate_scales",
    "optimizer.ema_decay",
    "runtime.sample.top_k",
    "runtime.sample.top_p",
    "runtime.sample.min_p",
    "runtime.sample.repetition_penalty",
    "runtime.checkpoint.init_from",
]
"""Modes that are turned on by a number, a list or true."""


def choices(annotation: object) -> Iterator[object]:
    """Yield the types and literal values in an annotation."""
    if get_origin(annotation) is Literal:
        yield from (value for value in get_args(annotation) if isinstance(value, str))
    elif get_args(annotation):
        for part in get_args(annotation):
            yield from choices(part)
    elif isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation


def modes(section: type[BaseModel], path: str) -> Iterator[str]:
    """Yield `key=value` for each value that is chosen by name."""
    for name, field in section.model_fields.items():
        key = f"{path}.{name}".lstrip(".")
        for choice in choices(field.annotation):
            if isinstance(choice, str):
                yield f"{key}={choice}"
            elif isinstance(choice, type) and issubclass(choice, BaseModel):
                yield from modes(choice, key)


def test_every_mode_has_a_row():
    text = PAGE.read_text(encoding="utf-8")
    named = {mode for mode in modes(RunConfig, "") if mode.split("=")[0] not in NO_NUMBERS}
    # a key of a dict is a name too: of learning_rate_scales
    named = {mode for mode in named if not mode.startswith("optimizer.learning_rate_scales=")}
    missing = sorted(mode for mode in named if f"| `{mode}`" not in text)
    missing += [key for key in NUMBERS if f"| `{key}" not in text]
    assert not missing
