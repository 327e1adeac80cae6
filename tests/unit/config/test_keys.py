import json
import random
import re
from pathlib import Path
from typing import get_args

import pytest
from pydantic import ValidationError

from candlewick.config import RunConfig, SchedulerConfig
from candlewick.config.keys import (
    find_nearest,
    find_problems,
    is_nullable,
    key_types,
    look_up,
    name_of,
    resolve_path,
)
from candlewick.config.load import load_config
from candlewick.config.yaml import format_key
from candlewick.errors import ConfigError

TAGS = [get_args(kind)[1] for kind in get_args(RunConfig.model_fields["optimizer"].annotation)]
ALGORITHMS = ", ".join(repr(tag.tag) for tag in TAGS)
*_FIRST, _LAST = map(repr, get_args(SchedulerConfig.model_fields["strategy"].annotation))
STRATEGIES = f"{', '.join(_FIRST)} or {_LAST}"


def problems(tree: dict) -> dict[str, str]:
    with pytest.raises(ValidationError) as caught:
        RunConfig.model_validate_json(json.dumps(tree))
    return {format_key(key): what for key, what in find_problems(caught.value, tree)}


def test_key_types_lists_sections_leaves_and_every_variant():
    types = key_types()
    assert {("model",), ("model", "hidden_size"), ("runtime", "evaluation", "best", "max_keep")} <= types.keys()
    assert ("optimizer", "nesterov") in types  # sgd
    assert {tag.tag for tag in TAGS} == types["optimizer", "algorithm"]
    assert types["data", "mixture", "weight"] == {int}
    assert types["data", "validation_sets", "*"] == {tuple, str}
    assert ("optimizer", "learning_rate_scales", "head") in types
    assert types["runtime", "logging", "tensorboard"] == {bool, Path, type(None)}


def test_what_may_be_null_or_is_a_list_entry():
    assert is_nullable(("model", "vocab_size"))
    assert is_nullable(("runtime", "sample"))
    assert not is_nullable(("model", "hidden_size"))
    assert not is_nullable(("no", "such", "key"))
    assert name_of(("data", "train_shards", 3)) == ("data", "train_shards")
    assert name_of(("data", "mixture", 1, "shards", 0)) == ("data", "mixture", "shards")


def typos(word: str, choose: random.Random) -> set[str]:
    """At every position one letter dropped, added, replaced, and swapped with the next."""
    found = set()
    for at in range(len(word)):
        head, rest, letter = word[:at], word[at:], choose.choice("abcdefghijklmnopqrstuvwxyz_")
        found |= {
            head + rest[1:],
            head + letter + rest,
            head + letter + rest[1:],
            head + rest[1:2] + rest[0] + rest[2:],
        }
    return found - {word}


def test_find_nearest_corrects_99_percent_of_typos():
    choose = random.Random(7)
    right = {key for key in key_types() if key[-1] != "*"}
    wrong = [
        ((*key[:-1], typo), key)
        for key in sorted(right)
        for typo in sorted(typos(key[-1], choose))
        if typo and (*key[:-1], typo) not in right
    ]
    sample = choose.sample(wrong, 600)
    missed = [(typo, key) for typo, key in sample if find_nearest(typo) != [key]]
    print(f"{1 - len(missed) / len(sample):.2%} of {len(sample)} of {len(wrong)} typos set right; not: {missed}")
    assert len(missed) <= 0.01 * len(sample)


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("hidden_size", "model.hidden_size"),
        ("model.sequence_length", "data.sequence_length"),
        ("optimizer.min_lr", "scheduler.min_lr"),
        ("runtime.max_keep", "runtime.checkpoint.max_keep"),
        ("modle", "model"),
        ("data.batch_size", "data.micro_batch_size"),
        ("runtime.checkpoint.dir", None),
        ("x", None),
        ("model.rope_type", "model.rope_scaling.rope_type"),
        ("data.Micro-Batch-Size", "data.micro_batch_size"),
        ("optimizer.learning_rate_scales.heads", "optimizer.learning_rate_scales.head"),
        ("data.mixture.weigth", "data.mixture.weight"),
        ("q" * 100_000, None),
        ("scheduler.epoch", "scheduler.total_epochs"),  # a part of five letters
        ("optimizer.decay_fraction", "scheduler.decay_fraction"),  # and not optimizer.decay
    ],
)
def test_find_nearest_finds_a_key_named_in_the_wrong_section(wrong, right):
    found = find_nearest(tuple(wrong.split(".")))
    assert found == ([] if right is None else [tuple(right.split("."))])


@pytest.mark.parametrize(
    ("tree", "key", "said"),
    [
        ({"model": {"hidden_size": "x"}}, "model.hidden_size", 'should be a whole number (got "x")'),
        ({"model": {"hidden_size": 1.5}}, "model.hidden_size", "should be a whole number (got 1.5)"),
        ({"model": {"hidden_size": 0}}, "model.hidden_size", "should be greater than or equal to 1 (got 0)"),
        ({"model": {"qk_norm": "yes"}}, "model.qk_norm", 'should be true or false (got "yes")'),
        ({"model": None}, "model", "should be a section with keys (got null)"),
        ({"model": {"rope_theta": {"a": 1}}}, "model.rope_theta", "should be a number (got a section)"),
        ({"data": {"train_shards": "a"}}, "data.train_shards", 'should be a list (got "a")'),
        ({"data": {"train_shards": ["a", 3]}}, "data.train_shards[1]", "should be text (got 3)"),
        ({"data": {"text_field": ["a"]}}, "data.text_field", "should be text (got a list)"),
        ({"optimizer": {"learning_rate": True}}, "optimizer.learning_rate", "should be a number (got true)"),
        ({"optimizer": {"algorithm": "adamw"}}, "optimizer.algorithm",
         f'should be one of {ALGORITHMS} (got "adamw", did you mean adam_w?)'),
        ({"optimizer": {"algorithm": "rmsprop"}}, "optimizer.algorithm",
         f'should be one of {ALGORITHMS} (got "rmsprop")'),
        ({"optimizer": {"learning_rate_scales": {"heads": 2}}}, "optimizer.learning_rate_scales.heads",
         "unknown key, did you mean optimizer.learning_rate_scales.head?"),
        ({"optimizer": {"algorithm": "sgd", "learning_rate_scales": {"head": -2}}},
         "optimizer.learning_rate_scales.head", "should be greater than or equal to 0 (got -2)"),
        ({"optimizer": {"learning_rate_scales": 2}}, "optimizer.learning_rate_scales",
         "should be a section with keys (got 2)"),
        ({"model": {"rope_scaling": {"factor": 2}}}, "model.rope_scaling.rope_type",
         "is missing: it says which kind of section this is"),
        ({"model": {"rope_scaling": {"rope_type": "yarm"}}}, "model.rope_scaling.rope_type",
         "should be one of 'linear', 'ntk', 'yarn', 'llama3' (got \"yarm\", did you mean yarn?)"),
        ({"model": {"rope_scaling": {"rope_type": "linear"}}}, "model.rope_scaling.factor", "is missing"),
        ({"model": {"rope_scaling": {"rope_type": "ntk", "alpha": 2, "factor": 2}}}, "model.rope_scaling.factor",
         "is a key of another rope_type than ntk"),
        ({"model": {"rope_scaling": 5}}, "model.rope_scaling", "should be a section with keys (got 5)"),
        ({"data": {"mixture": [{"shards": ["a"]}, {"weight": 2}]}}, "data.mixture[1].shards", "is missing"),
        ({"data": {"mixture": [{"shards": []}]}}, "data.mixture[0].shards", "should not be empty (got a list)"),
        ({"data": {"mixture": {"shards": ["a"]}}}, "data.mixture", "should be a list (got a section)"),
        ({"data": {"batch_ramp": [{"steps": "x", "global_batch_size": 1}]}}, "data.batch_ramp[0].steps",
         'should be a whole number (got "x")'),
        ({"data": {"validation_sets": {"web": "a"}}}, "data.validation_sets.web", 'should be a list (got "a")'),
        ({"data": {"validation_sets": {"web": [3]}}}, "data.validation_sets.web[0]", "should be text (got 3)"),
        ({"data": {"validation_sets": [3]}}, "data.validation_sets", "should be a section with keys (got a list)"),
        ({"optimizer": {"algorithm": "adam_w", "momentum": 1}}, "optimizer.momentum",
         "is a key of another algorithm than adam_w"),
        ({"optimizer": {"beta1": 0.9, "nesterov": True}}, "optimizer.nesterov", "is a key of another algorithm"),
        ({"optimizer": [1]}, "optimizer", "should be a section with keys (got a list)"),
        ({"optimizer": {"muon": 1}}, "optimizer.muon", "unknown key"),
        ({"scheduler": {"strategy": "cosin"}}, "scheduler.strategy",
         f'should be {STRATEGIES} (got "cosin", did you mean cosine?)'),
        ({"runtime": {"logging": {"tensorboard": 3}}}, "runtime.logging.tensorboard",
         "should be true or false or should be text (got 3)"),
        ({"runtime": {"evaluation": {"best": 5}}}, "runtime.evaluation.best",
         "should be a section with keys (got 5)"),
        ({"modle": {"a": 1}}, "modle", "unknown key, did you mean model?"),
        ({"xyzzy": 1}, "xyzzy", "unknown key"),
        ({"model": {"num_attention_heads": 5, "num_key_value_heads": 2}}, "model",
         "num_attention_heads=5 is not a multiple of num_key_value_heads=2; set model.num_key_value_heads to a "
         "divisor of it"),
        ({"data": {"sequence_length": 1000}}, "",
         "data.sequence_length=1000 exceeds model.max_position_embeddings=512; raise that, or set "
         "data.sequence_length=null"),
    ],
)  # fmt: skip
def test_validation_problem_is_one_sentence_per_key(tree, key, said):
    assert problems(tree) == {key: said}


def test_validation_reports_all_problems_at_once():
    found = problems({"model": {"hidden_size": "x", "hiden": 1}, "data": {"documents": "word"}, "z": 1})
    assert found.keys() == {"model.hidden_size", "model.hiden", "data.documents", "z"}


def test_suggestions_stop_after_many_unknown_keys():
    found = problems({"model": {f"hidden_siz{i}": 1 for i in range(1000)}})
    assert len(found) == 1000
    assert sum("did you mean" in what for what in found.values()) == 20


@pytest.mark.parametrize(
    ("name", "text", "resolved"),
    [
        ("data.train_shards", "a.txt", "/base/a.txt"),
        ("data.train_shards", "../a", "/base/../a"),
        ("data.train_shards", "/abs/a", "/abs/a"),
        ("data.train_shards", "stdlib://", "stdlib://"),
        ("data.train_shards", "hf://datasets/a/b@main", "hf://datasets/a/b@main"),
        ("data.mixture.shards", "a.txt", "/base/a.txt"),
        ("data.validation_sets.*", "a.txt", "/base/a.txt"),
        ("data.text_field", "a.txt", "a.txt"),
        ("data.cache_dir", "~/cache", str(Path.home() / "cache")),
        ("runtime.logging.tensorboard", "runs/tb", "/base/runs/tb"),
    ],
)
def test_resolve_path_joins_relative_paths_to_the_folder(name, text, resolved):
    assert resolve_path(tuple(name.split(".")), text, Path("/base")) == resolved


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("data.cache_dir", "", "should be a path, or null"),
        ("data.train_shards", "", "should be a path"),
        ("data.cache_dir", "a\0b", "should be a path, or null"),
        ("data.cache_dir", "s3://bucket/x", "should be a path of this machine, not an address"),
        ("runtime.logging.tensorboard", "Yes", "should be true, false or a path"),
        ("data.cache_dir", "~no-such-user-here/x", "names the home folder of a user who is not known"),
    ],
)
def test_resolve_path_refuses_text_that_is_no_path(name, text, said):
    with pytest.raises(ValueError, match=f"^{said}$"):
        resolve_path(tuple(name.split(".")), text, Path("/base"))


def test_values_are_looked_up_by_key():
    tree = {"a": {"b": [1, {"c": 2}]}}
    assert look_up(tree, ("a", "b", 1, "c")) == 2
    assert look_up(tree, ("a", "b", "c")) is None
    assert look_up(tree, ("x", "y")) is None
    assert look_up(tree, ("a", "b", 9)) is None
    assert look_up(tree, ()) == tree


def test_extends_is_a_key_of_files_only():
    assert problems({"extend": "base.yaml"}) == {"extend": "unknown key, did you mean extends?"}
    assert problems({"extends": "base.yaml"}) == {"extends": "can stand in a file only"}


def test_sections_with_free_keys_are_dicts():
    for name in (("optimizer", "learning_rate_scales"), ("data", "validation_sets")):
        assert key_types()[name] == {dict}


@pytest.mark.parametrize(
    ("override", "meant"),
    [
        ("optimizer.lr=1", "optimizer.learning_rate"),
        ("training.max_iters=5", "scheduler.total_steps"),
        ("gradient_accumulation_steps=4", "data.global_batch_size"),
        ("train.n_layer=4", "model.num_layers"),
        ("bf16=true", "runtime.precision"),
        ("logging_steps=4", "runtime.log_every_n_steps"),
    ],
)
def test_key_of_another_program_is_answered_with_ours(override, meant):
    with pytest.raises(ConfigError, match=rf"unknown key, did you mean {re.escape(meant)}\?"):
        load_config(None, [override])
