"""Translate configurations of transformer_candle into Candlewick's keys while `config.load` reads them.

    data.batch_size, data.gradient_accumulation_steps     data.global_batch_size, data.micro_batch_size
    scheduler.max_lr          with polynomial             scheduler.power, which it was
                              else                        optimizer.learning_rate, the peak
    training.checkpoint_dir                               runtime.checkpoint.init_from
    model.rope_mode: disabled, pre, online, auto, ...     off, preapply, on_the_fly

These keys are read in every file and override. A file with one of the first three is transformer_candle's: what it
and its overrides leave out, or set to null, has transformer_candle's default. Other keys have Candlewick's names.
Each translation is printed as a note.
"""

import json
from pathlib import Path
from typing import Any, cast

from candlewick.artifacts.manifest import read_bounded
from candlewick.compat.candle.notes import describe_rate, describe_sizes
from candlewick.compat.candle.paths import find_base, find_shards
from candlewick.config import RunConfig
from candlewick.config.formats import ProblemCallback
from candlewick.config.keys import is_nullable, key_types, look_up, name_of
from candlewick.config.load import Dialect, merge, resolve_paths, tree_with
from candlewick.config.tree import Tree
from candlewick.config.yaml import Key, format_key
from candlewick.errors import ConfigError

_BATCH, _ACCUMULATION = "batch_size", "gradient_accumulation_steps"
_MAX_LR = ("scheduler", "max_lr")
_LEARNING_RATE, _ALGORITHM = ("optimizer", "learning_rate"), ("optimizer", "algorithm")
_SHARDS = (("data", "train_shards"), ("data", "validation_shards"))
_ROPE_MODE = ("model", "rope_mode")
_CANDLE_KEYS = (("data", _BATCH), ("data", _ACCUMULATION), _MAX_LR)  # Candlewick's files have none of these
_SIZES: dict[Key, int] = {("data", _BATCH): 8, ("data", _ACCUMULATION): 1}
_RENAMED: dict[Key, Key] = {("training", "checkpoint_dir"): ("runtime", "checkpoint", "init_from")}
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
        self._file: Path | None = None
        self._notes: list[str] = []
        self._batch: int | None = None
        self._passes: int | None = None
        self._peak: Key = _LEARNING_RATE  # which of its two keys was set last
        self._optimizer: Tree = {}  # as the file says
        self._nulls: list[Key] = []  # keys that overrides take away
        self._sets_rate = False

    @property
    def reads_candle(self) -> bool:
        """Whether the file that was loaded is transformer_candle's."""
        return self._file is not None

    def translate(self, tree: Tree, where: str, report: ProblemCallback) -> Tree:
        """Return a file's tree with Candlewick's keys; a file of transformer_candle gets its defaults."""
        is_candle, self._is_candle = self._is_candle, False  # a file that extends another is Candlewick's
        if is_candle is None:
            is_candle = any(name in _section(tree, section) for section, name in _CANDLE_KEYS)
        if is_candle:
            self._file = Path(where)
            tree = _without_nulls(tree)  # transformer_candle wrote null for every key that was not set
            self._optimizer = _section(tree, "optimizer")
            base = find_base(tree, self._file.absolute())
            if base != self._file.absolute().parent:
                tree = cast(Tree, resolve_paths(tree, (), base, report))
                self._notes.append(f"{where}: its paths start at {base}, where its orchestrator was called")
        for candle_key, native_key in _RENAMED.items():
            if candle_key[1] in _section(tree, str(candle_key[0])):
                tree, value = _pop(tree, candle_key)
                tree = merge(tree, tree_with(*self._rename(candle_key, native_key, value)))
        peak, rate = look_up(tree, _MAX_LR), look_up(tree, _LEARNING_RATE)
        self._peak = _MAX_LR if rate is None and peak is not None else _LEARNING_RATE
        if None not in (peak, rate) and peak != rate and look_up(tree, ("scheduler", "strategy")) != "polynomial":
            report(_LEARNING_RATE, f"is {rate}, and {format_key(_MAX_LR)} is {peak}: keep one")
        if not is_candle:
            return tree
        self._notes.append(f"{where} {_FILE_NOTE}")
        return merge(_defaults(tree), tree)

    def translate_override(self, key: Key, value: object) -> tuple[Key, object]:
        """Return Candlewick's key and value of an override; null is transformer_candle's default in its files."""
        self._peak = key if key in (_MAX_LR, _LEARNING_RATE) else self._peak
        self._sets_rate |= key == _LEARNING_RATE
        if key in _RENAMED:
            return self._rename(key, _RENAMED[key], value)
        if not self.reads_candle:
            return key, value
        defaults = _defaults(tree_with(key, value))
        if key == _ALGORITHM and value in ("adam_w", "adam", "sgd"):  # its other settings stay
            return key[:1], {**defaults["optimizer"], **self._optimizer, "algorithm": value}
        default = look_up(defaults, key)
        if isinstance(value, dict):
            return key, merge(default if isinstance(default, dict) else {}, _without_nulls(cast(Tree, value)), key)
        if value is not None:
            return key, value
        if name_of(key) in key_types() and not is_nullable(name_of(key)):
            self._nulls.append(key)
        return key, _SIZES.get(key, default)

    def _rename(self, key: Key, native: Key, value: object) -> tuple[Key, object]:
        self._notes.append(f"{format_key(key)}={value} is read as {format_key(native)}")
        return native, value

    def complete(self, tree: Tree) -> Tree:
        """Return the tree of all files and overrides with Candlewick's keys and values only."""
        if isinstance(mode := look_up(tree, _ROPE_MODE), str):
            tree = merge(tree, tree_with(_ROPE_MODE, _ROPE_MODES.get(mode.lower(), mode)))
        if _MAX_LR[1] in _section(tree, _MAX_LR[0]):
            is_power = look_up(tree, ("scheduler", "strategy")) == "polynomial"
            tree, value = _pop(tree, _MAX_LR)
            if value is not None and (is_power or self._peak == _MAX_LR):
                native = ("scheduler", "power") if is_power else _LEARNING_RATE
                tree = merge(tree, tree_with(*self._rename(_MAX_LR, native, value)))
        if not self.reads_candle:
            return tree
        for key in self._nulls:
            if isinstance(section := look_up(tree, key[:-1]), dict) and section.get(key[-1], 0) is None:
                tree, _ = _pop(tree, key)
        if isinstance(hidden := _section(tree, "model").get("hidden_size"), int):
            tree = merge({"model": {"intermediate_size": 4 * hidden}}, tree)
        for key in _SHARDS:
            if isinstance(uris := look_up(tree, key), list):
                found = find_shards(cast(list[object], uris))
                self._notes += [f"{old} is not there: {new} is read" for old, new in found.items()]
                tree = merge(tree, tree_with(key, [found.get(str(uri), uri) for uri in cast(list[object], uris)]))
        return self._drop_ignored(tree)

    def _drop_ignored(self, tree: Tree) -> Tree:
        """Return the tree without settings that transformer_candle accepted and ignored."""
        scheduler = _section(tree, "scheduler")
        strategy, ignored = scheduler.get("strategy", "constant"), list[tuple[Key, str]]()
        if strategy in ("constant", "linear_warmup") and scheduler.get("min_lr"):
            ignored.append((("scheduler", "min_lr"), "a constant rate does not fall"))
        if strategy != "polynomial" and scheduler.get("power"):
            ignored.append((("scheduler", "power"), "only polynomial has one"))
        if None not in (scheduler.get("total_steps"), scheduler.get("total_epochs")):
            ignored.append((("scheduler", "total_epochs"), "the run ends by scheduler.total_steps"))
        if look_up(tree, _ALGORITHM) == "sgd":
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
        if self._file is not None:
            notes += describe_sizes(self._file, config)
        return notes + (describe_rate(config.optimizer) if self._sets_rate else [])


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
    algorithm = look_up(tree, _ALGORITHM) or "adam_w"
    optimizer = {"algorithm": algorithm, **({} if algorithm == "muon" else _OPTIMIZER)}
    if algorithm in ("adam_w", "adam"):
        optimizer |= _ADAM
    return merge(_DEFAULTS, {"optimizer": optimizer})


def _pop(tree: Tree, key: Key) -> tuple[Tree, Any]:
    """Return the tree without a key that it has, and its value; a section that becomes empty goes too."""
    name = str(key[0])
    inner, value = _pop(tree[name], key[1:]) if key[1:] else ({}, tree[name])
    return {k: inner if k == name else v for k, v in tree.items() if k != name or inner}, value
