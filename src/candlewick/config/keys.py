"""The keys of the config tree as a flat table, and the sentences about a key that a user reads.

    ("optimizer", "momentum")            {float}    a key, and the types of its value over all kinds of the section
    ("tokenizer", "tokenizer_json")      {Path, NoneType}
    ("data", "train_shards")             {tuple, str}     a list
    ("data", "mixture", "weight")        {int}      of every entry of a list
    ("data", "validation_sets", "*")     {str}      * stands for names that the user chooses

Pydantic's errors contain names of union members; the sentences here contain the user's keys.
"""

import json
import os
from collections.abc import Iterator, Mapping
from difflib import SequenceMatcher, get_close_matches
from functools import cache
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from candlewick.config import RunConfig
from candlewick.config.yaml import Key, format_key, shorten

Name = tuple[str, ...]

DISCRIMINATORS: dict[Key, str] = {("optimizer",): "algorithm", ("model", "rope_scaling"): "rope_type"}
"""Sections of several kinds, and the key in each that names the kind."""

_URI_KEYS: set[Name] = {  # paths or addresses
    ("runtime", "checkpoint", "init_from"),
    ("data", "train_shards"),
    ("data", "mixture", "shards"),
    ("data", "validation_shards"),
    ("data", "validation_sets", "*"),
    ("data", "prepared_from", "*"),
}
_OTHER_NAMES: dict[str, Name] = {  # of nanoGPT, the Trainer of transformers, litgpt
    **dict.fromkeys(("lr", "max_lr"), ("optimizer", "learning_rate")),
    **dict.fromkeys(("n_layer", "n_layers", "num_hidden_layers"), ("model", "num_layers")),
    **dict.fromkeys(("n_head", "n_heads"), ("model", "num_attention_heads")),
    **dict.fromkeys(("n_query_groups", "n_kv_heads", "n_kv_head"), ("model", "num_key_value_heads")),
    **dict.fromkeys(("dropout", "resid_pdrop"), ("model", "residual_dropout")),
    "attn_pdrop": ("model", "attn_dropout"),
    **dict.fromkeys(("padded_vocab_size", "vocab"), ("model", "vocab_size")),
    **dict.fromkeys(("dataset", "dataset_name", "train_data_path"), ("data", "train_shards")),
    **dict.fromkeys(("val_data_path", "eval_dataset"), ("data", "validation_shards")),
    **dict.fromkeys(("n_embd", "d_model", "dim"), ("model", "hidden_size")),
    **dict.fromkeys(("block_size", "context_length", "max_seq_length"), ("model", "max_position_embeddings")),
    **dict.fromkeys(("seq_len", "seq_length"), ("data", "sequence_length")),
    **dict.fromkeys(("batch_size", "per_device_train_batch_size"), ("data", "micro_batch_size")),
    **dict.fromkeys(("train_batch_size", "gradient_accumulation_steps"), ("data", "global_batch_size")),
    **dict.fromkeys(("max_steps", "max_iters", "num_train_steps"), ("scheduler", "total_steps")),
    **dict.fromkeys(("num_train_epochs", "max_epochs", "epochs"), ("scheduler", "total_epochs")),
    "max_tokens": ("scheduler", "total_tokens"),
    **dict.fromkeys(("warmup_iters", "lr_warmup_steps"), ("scheduler", "warmup_steps")),
    **dict.fromkeys(("lr_scheduler_type", "lr_decay_style"), ("scheduler", "strategy")),
    **dict.fromkeys(("log_interval", "logging_steps"), ("runtime", "log_every_n_steps")),
    "save_total_limit": ("runtime", "checkpoint", "max_keep"),
    "init_from": ("runtime", "checkpoint", "init_from"),
    **dict.fromkeys(("gradient_checkpointing", "activation_checkpointing"), ("runtime", "recompute")),
    **dict.fromkeys(("grad_clip", "clip_grad_norm"), ("optimizer", "max_grad_norm")),
    **dict.fromkeys(("eval_interval", "eval_steps"), ("runtime", "evaluation", "every_n_steps")),
    **dict.fromkeys(("save_interval", "save_steps"), ("runtime", "checkpoint", "every_n_steps")),
    **dict.fromkeys(("dtype", "bf16", "fp16", "torch_dtype"), ("runtime", "precision")),
}
_OTHER_WORDS = {"gpu": "cuda", "float32": "fp32", "bfloat16": "bf16", "float16": "fp16", "adamw": "adam_w"}
_EXTENDS: Name = ("extends",)
_MAX_SUGGESTIONS = 20
_BOOL_LIKE = {"yes", "no", "on", "off", "y", "n", "true", "false"}
_SENTENCES = {
    "bool_type": "should be true or false",
    "int_type": "should be a whole number",
    "float_type": "should be a number",
    "string_type": "should be text",
    "tuple_type": "should be a list",
    **dict.fromkeys(("model_type", "model_attributes_type", "dict_type"), "should be a section with keys"),
    **dict.fromkeys(("too_short", "string_too_short"), "should not be empty"),
}


@cache
def key_types() -> Mapping[Name, frozenset[object]]:
    """Return every key of the tree, sections included, with the types that its value may have."""
    table: dict[Name, frozenset[object]] = {_EXTENDS: frozenset([str, NoneType])}
    for name, member in _walk(RunConfig, ()):
        table[name] = table.get(name, frozenset()) | {member}
    del table[()]  # the tree itself
    return table


def _walk(annotation: object, name: Name) -> Iterator[tuple[Name, object]]:
    """Yield (key, type) for each type that a value, or an entry of a list, may have: at `name` and below it."""
    kind, arguments = get_origin(annotation), get_args(annotation)
    if kind is dict:
        yield name, dict
        names, values = arguments
        for entry in get_args(names) if get_origin(names) is Literal else ("*",):
            yield from _walk(values, (*name, entry))
    elif kind is Annotated:
        yield from _walk(arguments[0], name)
    elif arguments:
        if kind is tuple:
            yield name, tuple
        for argument in arguments:
            yield from _walk(argument, name)
    elif annotation is not ...:
        yield name, annotation
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            for key, info in annotation.model_fields.items():
                yield from _walk(info.annotation, (*name, key))


def name_of(key: Key) -> Name:
    """Return the name of a key in the table: without indexes, and with * for names that the user chooses."""
    name: Name = ()
    for part in key:
        if isinstance(part, str):
            name = (*name, "*" if (*name, "*") in key_types() else part)
    return name


def is_nullable(name: Name) -> bool:
    """Return whether the value of a key may be null."""
    return NoneType in key_types().get(name, ())


def resolve_path(name: Name, text: str, folder: Path) -> str:
    """Return the text of a setting; a path is made absolute, relative to `folder`, and its `~` expanded.

    Raises ValueError with what is wrong with the path.
    """
    if Path not in key_types().get(name, ()) and name not in _URI_KEYS:
        return text
    if not text or "\0" in text:
        raise ValueError("should be a path, or null" if is_nullable(name) else "should be a path")
    if bool in key_types().get(name, ()) and text.lower() in _BOOL_LIKE:
        raise ValueError("should be true, false or a path")
    if ("://" in text or text == "-") and name in _URI_KEYS:
        return text
    if "://" in text:
        raise ValueError("should be a path of this machine, not an address")
    try:
        return str(folder / Path(text).expanduser())
    except RuntimeError:
        raise ValueError("names the home folder of a user who is not known") from None


def relative_path(name: Name, text: str, folder: Path) -> str:
    """Return the text of a setting; a path in `folder` is made relative to it."""
    is_path = Path in key_types().get(name, ()) or name in _URI_KEYS
    if not is_path or "://" in text or not Path(text).is_relative_to(folder):
        return text
    return os.path.relpath(text, folder)


def find_problems(error: ValidationError, tree: dict[str, Any]) -> Iterator[tuple[Key, str]]:
    """Yield (key, sentence) for each problem of a tree."""
    sentences: dict[Key, list[str]] = {}
    values: dict[Key, str] = {}
    for detail in error.errors(include_url=False, include_input=False):
        if detail["type"] == "default_factory_not_called":  # only follows from another error
            continue
        key, sentence, values[key] = _explain(detail, tree, suggest=len(sentences) < _MAX_SUGGESTIONS)
        if sentence not in sentences.setdefault(key, []):
            sentences[key].append(sentence)
    for key, alternatives in sentences.items():
        yield key, " or ".join(alternatives) + values[key]


def _explain(detail: ErrorDetails, tree: dict[str, Any], *, suggest: bool) -> tuple[Key, str, str]:
    """Return the user's key, the problem, and the value where it helps."""
    key, kind = _plain_key(detail), detail["type"]
    if _is_wrong_key(detail):
        return key, _explain_unknown(name_of(key), tree) if suggest else "unknown key", ""
    if kind == "value_error":
        return key, detail["msg"].removeprefix("Value error, "), ""
    if kind == "missing":
        return key, "is missing", ""
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        key = (*key, DISCRIMINATORS[key])
    if kind == "union_tag_not_found":
        return key, "is missing: it says which kind of section this is", ""
    sentence = _SENTENCES.get(kind, detail["msg"].removeprefix("Input "))
    if kind == "union_tag_invalid":
        sentence = f"should be one of {detail.get('ctx', {})['expected_tags']}"
    return key, sentence, _explain_value(name_of(key), look_up(tree, key))


def _is_wrong_key(detail: ErrorDetails) -> bool:
    return detail["type"] == "extra_forbidden" or detail["loc"][-1:] == ("[key]",)


def _plain_key(detail: ErrorDetails) -> Key:
    """Return the key of an error, without the names of union members."""
    key: Key = ()
    *parents, last = [part for part in detail["loc"] if part != "[key]"] or [""]
    for part in parents:
        if isinstance(part, int) or name_of((*key, part)) in key_types():
            key = (*key, part)
    if isinstance(last, int) or _is_wrong_key(detail) or name_of((*key, last)) in key_types():
        key = (*key, last)
    return key


def _explain_unknown(name: Name, tree: dict[str, Any]) -> str:
    if name == _EXTENDS:
        return "can stand in a file only"
    if name in key_types():
        kind = DISCRIMINATORS[name[:-1]]
        value = look_up(tree, (*name[:-1], kind))
        return f"is a key of another {kind}{'' if value is None else f' than {value}'}"
    inner = look_up(tree, name)  # of an unknown section that another program has, its first key says what is meant
    known = [key for key in inner if key in _OTHER_NAMES] if isinstance(inner, dict) else []
    suggestions = [_OTHER_NAMES[known[0]]] if known else find_nearest(name)
    return f"unknown key, did you mean {format_key(suggestions[0])}?" if suggestions else "unknown key"


def _explain_value(name: Name, value: object) -> str:
    """Return the value, and of the words that are allowed the most similar one."""
    words = [word for word in key_types().get(name, ()) if isinstance(word, str)]
    suggestions = get_close_matches(value[:80], words, 1) if isinstance(value, str) else []
    if isinstance(value, str) and (meant := _OTHER_WORDS.get(value.lower())) in words:
        suggestions = [meant]
    text = shorten(json.dumps(value, ensure_ascii=False))
    text = "a section" if isinstance(value, dict) else "a list" if isinstance(value, list) else text
    return f" (got {text}{f', did you mean {suggestions[0]}?' if suggestions else ''})"


def find_nearest(name: Name, limit: int = 1) -> list[Name]:
    """Return existing keys that an unknown key may stand for, the most similar first.

    The unknown key has a typo, a part of the name (`batch_size` of `micro_batch_size`), or the wrong section.
    """
    last = name[-1][:80].lower().replace("-", "_")
    if (meant := _OTHER_NAMES.get(last)) is not None and limit == 1:
        return [meant]
    keys = [key for key in key_types() if key[-1] != "*"]
    suggestions = set(get_close_matches(last, {key[-1] for key in keys}, len(keys)))
    suggestions |= {key[-1] for key in keys if len(last) >= 5 and (last in key[-1] or key[-1] in last)}

    def similarity(key: Name) -> float:
        return SequenceMatcher(None, last, key[-1]).ratio() + 0.1 * (key[:-1] == name[:-1])

    return sorted(sorted(key for key in keys if key[-1] in suggestions), key=similarity, reverse=True)[:limit]


def look_up(tree: Any, key: Key) -> Any:
    """Return the value at a key of a tree; None if there is none."""
    for part in key:
        try:
            tree = tree[part]
        except (KeyError, IndexError, TypeError):
            return None
    return tree
