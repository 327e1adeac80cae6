import json
from importlib import resources

import pytest
from jsonschema import Draft202012Validator

from candlewick.config import RunConfig
from candlewick.config.formats import parse
from candlewick.config.load import profiles
from candlewick.config.schema import describe_default, describe_type, json_schema, references, sections

VALIDATOR = Draft202012Validator(json_schema())


def accepts(tree) -> bool:
    return VALIDATOR.is_valid(tree)


def test_json_schema_is_valid_draft_2020_12():
    Draft202012Validator.check_schema(json_schema())


@pytest.mark.parametrize("name", profiles())
def test_every_profile_validates_against_the_schema(name):
    text = resources.files("candlewick.config.profiles").joinpath(f"{name}.yaml").read_text(encoding="utf-8")
    assert accepts(parse(text, "yaml").tree)


@pytest.mark.parametrize(
    "tree",
    [
        RunConfig().model_dump(mode="json"),
        {},
        {"extends": "local", "optimizer": {"nesterov": True}},
        {"optimizer": {"learning_rate": 1}},
        {"optimizer": {"algorithm": "sgd", "momentum": 0}},
        {"optimizer": {"learning_rate_scales": {"head": 2}}},
        {"model": {"rope_scaling": {"rope_type": "yarn", "factor": 2, "original_max_position_embeddings": 8}}},
        {"model": {"rope_scaling": {"factor": 4.0}}},  # the parent may say which kind
        {"model": {"rope_scaling": None}},
        {"data": {"mixture": [{"shards": ["a"]}], "validation_sets": {"web": ["b"]}}},
        {"runtime": {"logging": {"tensorboard": "runs/tb"}, "sample": None}},
    ],
)
def test_schema_accepts_trees_that_the_loader_accepts(tree):
    assert accepts(tree)


@pytest.mark.parametrize(
    "tree",
    [
        {"modle": {}},
        {"extends": 3},
        {"model": {"hidden_size": "big"}},
        {"model": {"hidden_size": 0}},
        {"model": {"hidden_size": 1.5}},
        {"model": {"rope_scaling": {"rope_type": "dynamic"}}},
        {"model": {"rope_scaling": {"rope_type": "ntk", "factor": 2}}},
        {"optimizer": {"algorithm": "rmsprop"}},
        {"optimizer": {"algorithm": "lion", "nesterov": True}},
        {"optimizer": {"learning_rate_scales": {"heads": 2}}},
        {"data": {"train_shards": "a"}},
        {"data": {"mixture": [{"weight": 2}]}},
        {"scheduler": {"strategy": "cosin"}},
        {"runtime": {"evaluation": {"every_n_steps": "10"}}},
    ],
)
def test_schema_refuses_wrong_trees(tree):
    assert not accepts(tree)


def test_schema_uses_no_keywords_of_pydantic():
    text = json.dumps(json_schema())
    assert '"discriminator"' not in text
    assert '"oneOf"' not in text
    assert text.count('"title"') == 1


def test_groups_list_every_section_and_variant():
    found = {(group.name, group.kind) for group in sections()}
    assert {("", None), ("optimizer", "algorithm: lion"), ("model.rope_scaling", "rope_type: ntk"),
            ("data.mixture[]", None), ("runtime.evaluation.best", None)} <= found  # fmt: skip


@pytest.mark.parametrize(
    ("name", "key", "words", "default"),
    [
        ("model", "hidden_size", "integer ≥ 1", "`384`"),
        ("model", "head_dim", "integer ≥ 1", "derived"),
        ("model", "rope_scaling", "section or null", "`null`"),
        ("data", "mixture", "list of sections", "`[]`"),
        ("data.mixture[]", "shards", "list of text", "must be set"),
        ("runtime", "sample", "section or null", "on"),
        ("data", "train_shards", "list of text", "`[]`"),
        ("data", "validation_sets", "names, each: list of text", "`{}`"),
        ("data", "order", "`global`, `window`", "derived"),
        ("optimizer", "learning_rate_scales", "`matrix`, `embedding`, `head`, `vector`, each: number ≥ 0", "`{}`"),
        ("optimizer", "algorithm", "`muon`", "`muon`"),
        ("tokenizer", "tokenizer_json", "path or null", "`null`"),
        ("tokenizer", "vocab_size", "integer ≥ 258, ≤ 1,048,576", "`32000`"),
        ("runtime.logging", "tensorboard", "true or false or path or null", "`null`"),
    ],
)
def test_type_and_default_of_a_setting_are_described_in_words(name, key, words, default):
    field = next(group for group in sections() if group.name == name).settings[key]
    assert (describe_type(field), describe_default(field)) == (words, default)


def test_references_lists_the_sections_of_a_setting():
    settings = next(group for group in sections() if group.name == "model").settings
    assert list(references(settings["rope_scaling"])) == [
        "LinearScaling", "NtkScaling", "YarnScaling", "Llama3Scaling",
    ]  # fmt: skip
    assert not list(references(settings["hidden_size"]))


def test_the_parent_of_a_file_is_explained():
    extends = json_schema()["properties"]["extends"]
    assert extends["description"] == "A file or profile whose settings this file starts from."
    assert extends["default"] is None
