"""The settings that everybody types, by plain names: flags of the command line, keywords of the Python API.

    steps=500, hidden=256   ->   scheduler.total_steps=500  model.hidden_size=256  model.num_attention_heads=4 ...

Settings that depend on a plain one follow it, unless they are given too: heads and MLP follow the width, the rows
of one pass follow the batch, the length of a row follows the context.
"""

import difflib
import json
from collections.abc import Mapping, Sequence

from candlewick.config import RunConfig
from candlewick.errors import ConfigError

PLAIN = {
    "steps": "scheduler.total_steps",
    "seconds": "scheduler.total_seconds",
    "epochs": "scheduler.total_epochs",
    "tokens": "scheduler.total_tokens",
    "lr": "optimizer.learning_rate",
    "batch": "data.global_batch_size",
    "context": "model.max_position_embeddings",
    "layers": "model.num_layers",
    "hidden": "model.hidden_size",
    "vocab_size": "tokenizer.vocab_size",
}
_END = "scheduler.total_"


def plain_overrides(given: Mapping[str, object], base: RunConfig, overrides: Sequence[str] = ()) -> list[str]:
    """Return the overrides that plain settings stand for, to be put before `overrides` of the same user.

    None is a setting that is not given. `base` is the configuration below them, whose end an end replaces. Raises
    ConfigError for an unknown name, a setting that `overrides` set too, two ends, and a width that fits no heads.
    """
    values = {_find_key(name): value for name, value in given.items() if value is not None}
    others = [override.partition("=")[0].strip() for override in overrides]
    names = {key: name for name, key in PLAIN.items()}
    if twice := next((key for key in values if key in others), None):
        raise ConfigError(f"{names[twice]} and {twice} set the same", "give one of them")
    ends = [names[key] for key in values if key.startswith(_END)]
    ends += [key for key in others if ends and key.startswith(_END)]
    if len(ends) > 1:
        raise ConfigError(f"{' and '.join(ends)} are {len(ends)} ends of a run", "give one of them")
    for key, derive in _DERIVED.items():
        if (value := _whole(values.get(key))) is not None:
            values |= {name: number for name, number in derive(value, base, others).items() if name not in others}
    return [f"{key}={json.dumps(_whole(value) or value, default=str)}" for key, value in values.items()]


def _find_key(name: str) -> str:
    if name not in PLAIN:
        matches = difflib.get_close_matches(name, PLAIN, 1)
        fix = f"did you mean {matches[0]}?" if matches else f"give {', '.join(PLAIN)}, or a key in overrides"
        raise ConfigError(f"there is no setting {name!r}", fix)
    return PLAIN[name]


def _whole(value: object) -> int | None:
    """Return a number that is whole and above 0, such as 1e6, as an int; None for another value, which is checked
    as every setting is.
    """
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < 1 << 63:
        return None
    return int(value) if value == int(value) else None


def _follow_width(hidden: int, base: RunConfig, others: Sequence[str]) -> Mapping[str, int | None]:
    """Return heads as wide as before, else as many as before, and an MLP in proportion."""
    model = base.model
    derived: dict[str, int] = {}
    if "intermediate_size" in model.model_fields_set:
        share = model.intermediate_size * hidden / model.hidden_size
        derived["model.intermediate_size"] = max(64, round(share / 64) * 64)
    if {"model.num_attention_heads", "model.num_key_value_heads", "model.head_dim"} & set(others):
        return derived
    heads, group = model.num_attention_heads, model.num_attention_heads // model.num_key_value_heads
    width = model.head_dim
    if hidden % (width * group) == 0:
        heads = hidden // width
    elif hidden % (2 * heads) == 0:
        width = hidden // heads
    else:
        below = hidden // (width * group) * width * group
        near = " or ".join(str(number) for number in (below, below + width * group) if number)
        raise ConfigError(
            f"hidden={hidden} is no multiple of {width}, the width of a head, nor of {heads} even heads",
            f"give {near}, or set model.num_attention_heads and model.head_dim too",
        )
    counts = {"num_attention_heads": heads, "num_key_value_heads": heads // group, "head_dim": width}
    return derived | {f"model.{name}": count for name, count in counts.items()}


def _follow_batch(rows: int, base: RunConfig, _others: Sequence[str]) -> Mapping[str, int | None]:
    """Return as many rows of one pass as divide the batch, at most those before."""
    most = min(rows, base.data.micro_batch_size)
    return {"data.micro_batch_size": next(count for count in range(most, 0, -1) if rows % count == 0)}


def _follow_context(_length: int, _base: RunConfig, _others: Sequence[str]) -> Mapping[str, int | None]:
    return {"data.sequence_length": None}


_DERIVED = {PLAIN["hidden"]: _follow_width, PLAIN["batch"]: _follow_batch, PLAIN["context"]: _follow_context}
