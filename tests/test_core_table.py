"""docs/core.md has a row for every mode that a configuration can choose."""

from collections.abc import Iterator
from pathlib import Path
from types import NoneType
from typing import get_args, get_origin

from pydantic import BaseModel

from candlewick.config import RunConfig

PAGE = Path(__file__).resolve().parents[1] / "docs" / "core.md"

NUMBERS = {"model.num_key_value_heads", "model.partial_rotary_factor", "data.micro_batch_size"}
"""Modes that are a number and never off."""
WHERE = "where something lies, not what is computed"
SIZE = "a number that another mode's row is about"
WHEN = "when something happens, not what is computed"
EXEMPT = {
    "tokenizer.tokenizer_json": WHERE,
    "tokenizer.vocab": WHERE,
    "tokenizer.merges": WHERE,
    "tokenizer.special_tokens": WHERE,
    "tokenizer.max_train_lines": SIZE,
    "data.train_shards": WHERE,
    "data.validation_shards": WHERE,
    "data.cache_dir": WHERE,
    "runtime.checkpoint.directory": WHERE,
    "runtime.evaluation.best.directory": WHERE,
    "runtime.logging.tensorboard": WHERE,
    "runtime.logging.enable_stdout": WHERE,
    "runtime.logging.level": WHERE,
    "data.num_workers": "the same bytes with any number: tests/unit/data/tokens/test_prepare.py",
    "data.documents": "checked text by text in tests/unit/data/text/test_documents.py",
    "data.bad_rows": "checked row by row in tests/unit/data/text/test_documents.py",
    "data.include": "which text is read; tests/unit/data/text/test_folders.py",
    "data.exclude": "which text is read; tests/unit/data/text/test_folders.py",
    "data.prepared": "written by a run; tests/integration/test_moved_run.py",
    "data.prepared_from": "written by a run; tests/integration/test_moved_run.py",
    "data.bad_utf8": "checked byte by byte in tests/unit/data/text/test_documents.py",
    "runtime.checkpoint.before_decay": "what is kept, not learned; tests/integration/test_longer_runs.py",
    "runtime.evaluation.at_shares": WHEN,
    "runtime.sample.prompts": "checked text by text in tests/unit/runs/test_complete.py",
    "data.sequence_length": SIZE,
    "data.shuffle_buffer_size": SIZE,
    "data.global_batch_size": SIZE,
    "data.global_batch_tokens": SIZE,
    "model.vocab_size": SIZE,
    "model.rope_scaling": "each of its kinds has a row",
    "model.rope_scaling.attention_factor": "in the rows of rope_type=yarn",
    "scheduler.warmup_steps": "in the rows of scheduler.strategy",
    "scheduler.total_steps": WHEN,
    "scheduler.total_tokens": WHEN,
    "scheduler.total_epochs": WHEN,
    "scheduler.total_seconds": WHEN,
    "runtime.evaluation.every_n_steps": WHEN,
    "runtime.evaluation.at_end": WHEN,
    "runtime.evaluation.max_tokens": SIZE,
    "runtime.evaluation.best": "what is kept; tests/unit/train/test_trainer.py",
    "runtime.logging.statistics_every_n_steps": WHEN,
    "data.max_tokens": "where text ends; tests/unit/data/tokens/test_pipeline.py",
    "data.max_documents": "where text ends; tests/unit/data/tokens/test_pipeline.py",
    "runtime.checkpoint.every_n_steps": WHEN,
    "runtime.checkpoint.every_n_epochs": WHEN,
    "runtime.checkpoint.max_keep": "what is kept; tests/unit/train/test_trainer.py",
    "runtime.evaluation.every_n_epochs": WHEN,
    "runtime.evaluation.best.max_keep": "what is kept; tests/unit/train/test_trainer.py",
    "runtime.logging.tensorboard_flush_every_n": WHEN,
    "runtime.sample": "each of its settings has a row",
    "runtime.device": "what runs on another device is in tests/gpu",
    "runtime.tf32": "CUDA only: tests/gpu",
    "runtime.deterministic": "CUDA only: tests/gpu",
}
"""Modes without a row, and why."""


def members(annotation: object) -> Iterator[object]:
    """Yield the types and literal values in an annotation."""
    arguments = get_args(annotation)
    if get_origin(annotation) in (dict, tuple) or not arguments:
        yield annotation
    for argument in arguments:
        yield from members(argument)


def modes(section: type[BaseModel], path: str) -> Iterator[str]:
    """Yield `key=value` for each value that is chosen by name or by true; `key` for what can be off or empty."""
    for name, field in section.model_fields.items():
        key = f"{path}.{name}".lstrip(".")
        found = list(members(field.annotation))
        if get_origin(field.annotation) is not dict:  # the names in one are values of its own key
            yield from (f"{key}={value}" for value in found if isinstance(value, str))
        if bool in found:
            yield f"{key}=true"
        if NoneType in found or field.default in ((), {}) or name.endswith(("dropout", "penalty")):
            yield key
        for choice in found:
            if isinstance(choice, type) and issubclass(choice, BaseModel):
                yield from modes(choice, key)


MODES = NUMBERS.union(modes(RunConfig, ""))


def test_every_mode_has_a_row():
    text = PAGE.read_text(encoding="utf-8")
    missing = [
        mode
        for mode in sorted(MODES)
        if mode.partition("=")[0] not in EXEMPT
        and not any(f"| `{mode}{end}" in text for end in (("`",) if "=" in mode else ("`", "=", " (")))
    ]
    assert not missing, (
        "a test has to compare these modes with a reference: see the fixture core_row, for settings of the model "
        "`modes_of` in tests/integration/test_hugging_face.py; then `make core`"
    )


def test_exempt_keys_are_modes():
    assert EXEMPT.keys() <= {mode.partition("=")[0] for mode in MODES}
