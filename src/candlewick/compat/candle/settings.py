"""Translate configurations of transformer_candle into Candlewick's keys while `config.load` reads them.

    data.batch_size, data.gradient_accumulation_steps     data.global_batch_size, data.micro_batch_size
    scheduler.max_lr                                       optimizer.learning_rate, the peak
    training.checkpoint_dir                                runtime.checkpoint.init_from
    model.rope_mode: disabled, pre, online, auto, ...      off, preapply, on_the_fly

These keys are read in every file and override. A file with one of the first three is transformer_candle's: what it
leaves out has transformer_candle's default. Other keys have Candlewick's names. Each translation is printed as a
note.
"""

import json
from pathlib import Path
from typing import Any, cast

from candlewick.artifacts.manifest import read_bounded
from candlewick.config import ModelConfig, RunConfig
from candlewick.config.formats import ProblemCallback
from candlewick.config.keys import look_up
from candlewick.config.load import Dialect, merge, tree_with
from candlewick.config.tree import Tree
from candlewick.config.yaml import Key, format_key
from candlewick.errors import ConfigError
from candlewick.model.flops import model_size

_BATCH, _ACCUMULATION = "batch_size", "gradient_accumulation_steps"
_MAX_LR = ("scheduler", "max_lr")
_ROPE_MODE = ("model", "rope_mode")
_CANDLE_KEYS = (("data", _BATCH), ("data", _ACCUMULATION), _MAX_LR)  # Candlewick's files have none of these
_RENAMED: dict[Key, Key] = {
    _MAX_LR: ("optimizer", "learning_rate"),
    ("training", "checkpoint_dir"): ("runtime", "checkpoint", "init_from"),
}
_ROPE_MODES = {
    "disabled": "off",
    **dict.fromkeys(("pre-applied", "pre", "preapplied"), "preapply"),
    **dict.fromkeys(("onthefly", "online", "auto"), "on_the_fly"),
}
_ADAM = {"beta1": 0.9, "beta2": 0.95, "epsilon": 1e-8}
_OPTIMIZER = {"learning_rate": 3e-4, "weight_decay": 0.0, "decay": "all", "max_grad_norm": None}
_DEFAULTS: Tree = {
    "model": {"hidden_size": 4096, "num_layers": 32, "num_attention_heads": 32, "max_position_embeddings": 2048},
    "data": {"documents": "line"},
    "scheduler": {"strategy": "constant", "warmup_steps": 0},
    "runtime": {
        "log_every_n_steps": 100,
        "checkpoint": {"max_keep": None},
        "evaluation": {"every_n_steps": None, "max_tokens": None, "best": None},
    },
}
_STREAMING = ("dataset", "split", "max_samples", "stream_batch_size")
_FILE_NOTE = (
    "is read as a configuration of transformer_candle: what it leaves out is AdamW with decay on all tensors and "
    "no clipping, lines of .txt are documents, and only the end is evaluated unless more is asked for"
)


class CandleDialect(Dialect):
    """Translates the keys of transformer_candle; keeps its batch sizes, as the last file or override set them.

    `is_candle` says whether the file to load is transformer_candle's; None: its keys decide.
    """

    def __init__(self, *, is_candle: bool | None = None) -> None:
        self._is_candle = is_candle
        self._notes: list[str] = []
        self._batch: int | None = None
        self._passes: int | None = None

    def translate(self, tree: Tree, where: str, report: ProblemCallback) -> Tree:
        """Return a file's tree with Candlewick's keys; a file of transformer_candle gets its defaults."""
        is_candle, self._is_candle = self._is_candle, False  # a file that extends another is Candlewick's
        if is_candle is None:
            is_candle = any(name in _section(tree, section) for section, name in _CANDLE_KEYS)
        if is_candle:
            tree = _without_nulls(tree)  # transformer_candle wrote null for every key that was not set
        for candle_key, native_key in _RENAMED.items():
            if candle_key[1] not in _section(tree, str(candle_key[0])):
                continue
            tree, value = _pop(tree, candle_key)
            hint = " (the power of polynomial is scheduler.power)" if candle_key == _MAX_LR else ""
            if (native_value := look_up(tree, native_key)) not in (None, value):
                report(native_key, f"is {native_value}, and {format_key(candle_key)} is {value}: keep one{hint}")
            self._notes.append(f"{format_key(candle_key)}={value} is read as {format_key(native_key)}{hint}")
            tree = merge(tree, tree_with(native_key, value))
        if (mode := look_up(tree, _ROPE_MODE)) is not None:
            tree = merge(tree, tree_with(*self.translate_override(_ROPE_MODE, mode)))
        if not is_candle:
            return tree
        self._notes.append(f"{where} {_FILE_NOTE}")
        return merge(_defaults(tree), self._drop_ignored(tree))

    def translate_override(self, key: Key, value: object) -> tuple[Key, object]:
        """Return Candlewick's key and value of an override."""
        if key == _ROPE_MODE and isinstance(value, str):
            value = _ROPE_MODES.get(value.lower(), value)
        return _RENAMED.get(key, key), value

    def _drop_ignored(self, tree: Tree) -> Tree:
        """Return the tree without settings that transformer_candle accepted and ignored."""
        scheduler = _section(tree, "scheduler")
        ignored: list[tuple[Key, str]] = []
        if scheduler.get("strategy", "constant") in ("constant", "linear_warmup") and "min_lr" in scheduler:
            ignored.append((("scheduler", "min_lr"), "a constant rate does not fall"))
        if {"total_steps", "total_epochs"} <= scheduler.keys():
            ignored.append((("scheduler", "total_epochs"), "the run ends by scheduler.total_steps"))
        if look_up(tree, ("optimizer", "algorithm")) == "sgd":
            betas = _ADAM.keys() & _section(tree, "optimizer").keys()
            ignored += [(("optimizer", name), "sgd has no such setting") for name in sorted(betas)]
        for key, reason in ignored:
            tree, _ = _pop(tree, key)
            self._notes.append(f"{format_key(key)} is left out: {reason}")
        return tree

    def translate_merged(self, tree: Tree, layer: Tree, report: ProblemCallback) -> Tree:
        """Return the tree with global_batch_size and micro_batch_size for transformer_candle's batch sizes.

        `batch_size` counts the rows of all accumulated passes of an update if their number divides it, else those
        of one pass. A missing size comes from lower layers. Candlewick's keys in the same layer take precedence.
        """
        data, layer_data = dict(_section(tree, "data")), _section(layer, "data")
        sizes = {name: data.pop(name) for name in (_BATCH, _ACCUMULATION) if name in data}
        if not sizes:
            return tree
        for name, size in sizes.items():
            if type(size) is not int or size < 1:
                report(("data", name), "should be a whole number, at least 1")
                return tree | {"data": data}
        rows, micro = data.get("global_batch_size"), data.get("micro_batch_size")
        if self._batch is None and self._passes is None and isinstance(micro, int) and micro > 0:
            rows = rows if isinstance(rows, int) else micro
            self._batch, self._passes = rows, max(1, rows // micro)
        self._batch = batch = sizes.get(_BATCH, self._batch or 8)
        self._passes = passes = sizes.get(_ACCUMULATION, self._passes or 1)
        native = {"global_batch_size": batch, "micro_batch_size": batch // passes}
        if batch % passes:
            native = {"global_batch_size": batch * passes, "micro_batch_size": batch}
        if "global_batch_tokens" in layer_data:
            del native["global_batch_size"]
        else:
            data.pop("global_batch_tokens", None)
        return tree | {"data": data | {name: size for name, size in native.items() if name not in layer_data}}

    def rows_per_batch(self, config: RunConfig) -> int:
        """Return the rows of a validation batch: in a configuration of transformer_candle those of an update."""
        rows = None if self._batch is None else config.data.global_batch_size
        return rows or config.data.micro_batch_size

    def notes(self, config: RunConfig) -> list[str]:
        """Return messages about how files and batch sizes were read, and how large the model becomes."""
        notes, data = [*self._notes], config.data
        if self._batch is not None and self._passes is not None:
            is_global = self._batch % self._passes == 0
            how = "rows per update" if is_global else f"rows per pass, which {self._passes} do not divide"
            notes.append(
                f"data.{_BATCH}={self._batch} with {_ACCUMULATION}={self._passes} is read as {how}: "
                f"global_batch_size={data.global_batch_size}, micro_batch_size={data.micro_batch_size}"
            )
        if self._notes and config.model.mlp == "swiglu" and "mlp" not in config.model.model_fields_set:
            notes.append(_describe_width(config.model))
        return notes


def find_streaming_config(config: Path) -> tuple[Path, Tree] | None:
    """Return the path and content of a streaming_config.json beside a configuration. Raises ConfigError."""
    path = config.parent / "streaming_config.json"
    if not (config.is_file() and path.is_file()):
        return None
    try:
        content: Tree = {k: v for k, v in json.loads(read_bounded(path)).items() if v is not None}
    except (ValueError, AttributeError, RecursionError) as error:
        raise ConfigError(f"{path} is not a JSON object: {str(error)[:80]}", "correct it, or remove it") from None
    if content.keys() - set(_STREAMING) or not content.get("dataset"):
        raise ConfigError(
            f"{path} should have a dataset, and no keys but {', '.join(_STREAMING)}", "correct or remove it"
        )
    return path, content


def _section(tree: Tree, name: str) -> Tree:
    return cast(Tree, tree[name]) if isinstance(tree.get(name), dict) else {}


def _without_nulls(tree: Tree) -> Tree:
    """Return a tree without nulls, and without sections that hold nothing else."""
    kept = {name: _without_nulls(cast(Tree, v)) if v and isinstance(v, dict) else v for name, v in tree.items()}
    return {name: v for name, v in kept.items() if v is not None and (v != {} or v == tree[name])}


def _defaults(tree: Tree) -> Tree:
    """Return the defaults of transformer_candle for a file."""
    hidden = look_up(tree, ("model", "hidden_size"))
    width = {"intermediate_size": 4 * (hidden if isinstance(hidden, int) else 4096)}
    algorithm = look_up(tree, ("optimizer", "algorithm")) or "adam_w"
    optimizer = {"algorithm": algorithm, **({} if algorithm == "muon" else _OPTIMIZER)}
    if algorithm in ("adam_w", "adam"):
        optimizer |= _ADAM
    return merge(_DEFAULTS, {"model": width, "optimizer": optimizer})


def _describe_width(model: ModelConfig) -> str:
    """Describe the size of a model whose MLP width was chosen for the block without a gate."""
    width = max(64, model.intermediate_size * 2 // 3 // 64 * 64)
    table = f" and {model.vocab_size * model.hidden_size:,} in the embedding" if model.vocab_size else ""
    sizes = (model_size(m, vocab_size=0).total for m in (model, model.replaced(intermediate_size=width)))
    now, then = (size - model.hidden_size for size in sizes)  # without the last norm
    return (
        f"model.intermediate_size={model.intermediate_size} is kept: with the gated block the layers have "
        f"{now:,} parameters{table}; intermediate_size: {width} gives {then:,}, about the size that was meant, "
        "and mlp: silu is transformer_candle's block"
    )


def _pop(tree: Tree, key: Key) -> tuple[Tree, Any]:
    """Return the tree without a key that it has, and its value; a section that becomes empty goes too."""
    name = str(key[0])
    inner, value = _pop(tree[name], key[1:]) if key[1:] else ({}, tree[name])
    return {k: inner if k == name else v for k, v in tree.items() if k != name or inner}, value
