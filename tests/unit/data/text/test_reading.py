from dataclasses import fields, replace

import pytest

from candlewick.config import DataConfig, TokenizerConfig
from candlewick.data.shards.write import Outputs, ShardSettings, write_text_shards
from candlewick.data.text.find import open_text
from candlewick.data.text.reading import Reading
from candlewick.data.tokens.plan import dataset_settings
from candlewick.runs.tokenizer import tokenizer_recipe


def test_reading_takes_the_field_of_its_format_and_the_rules_of_a_config():
    config = DataConfig(text_field="body", messages_field="turns", documents="line", bad_utf8="skip")
    assert Reading.from_config(config) == Reading("text", "line", "body", "skip")
    assert Reading.from_config(config.replaced(format="chat")).field == "turns"
    limits = Reading.from_config(DataConfig(bad_rows="skip", max_document_bytes=1 << 20, max_expansion=7))
    assert (limits.bad_rows, limits.max_document_bytes, limits.max_expansion) == ("skip", 1 << 20, 7)
    assert Reading.from_config(DataConfig()) == Reading()


def test_max_text_bytes_is_the_expansion_but_64_mebibytes_of_small_files():
    assert Reading(max_expansion=10).max_text_bytes(1 << 30) == 10 << 30
    assert Reading(max_expansion=10).max_text_bytes(1) == 64 << 20


OTHERS = {
    "format": "chat",
    "documents": "line",
    "field": "body",
    "bad_utf8": "skip",
    "bad_rows": "skip",
    "max_document_bytes": 1 << 12,
    "token_dtype": "uint32",
}
WITHOUT_EFFECT = {"max_expansion": 3, "block_bytes": 5}  # a text that expands more is an error
BASES = [Reading(), Reading(bad_rows="skip"), Reading("tokens")]


def test_every_field_of_reading_is_in_the_identity_or_known_to_decide_nothing():
    assert {field.name for field in fields(Reading)} == OTHERS.keys() | WITHOUT_EFFECT.keys()
    for name, value in OTHERS.items():
        assert any(replace(base, **{name: value}).identity() != base.identity() for base in BASES), name
    for base in BASES:
        assert replace(base, **WITHOUT_EFFECT).identity() == base.identity()
        assert base.identity().items() <= {name: getattr(base, name) for name in OTHERS}.items()


def test_fields_that_decide_documents_only_at_times_are_in_the_identity_then():
    always = {"format", "documents", "field", "bad_utf8", "bad_rows"}
    assert Reading().identity().keys() == always
    assert Reading(bad_rows="skip").identity().keys() == always | {"max_document_bytes"}
    assert Reading("tokens").identity().keys() == always | {"token_dtype"}


@pytest.mark.parametrize("bad_rows", ["error", "skip"])
def test_identity_of_reading_is_in_every_recipe(write, tmp_path, bad_rows):
    path = write("a.jsonl", ["x"] * 9)
    configs = [DataConfig(bad_rows=bad_rows, max_document_bytes=size) for size in (1 << 10, 1 << 20)]
    settings = [dataset_settings(config) for config in configs]
    texts = [open_text([str(path)], config) for config in configs]
    tokenizers = [tokenizer_recipe(text, TokenizerConfig()).config for text in texts]
    own = Outputs(tmp_path / "train", tmp_path / "val")
    shards = [write_text_shards([str(path)], own, ShardSettings(), config)[0][0].config for config in configs]
    for recipes in (settings, tokenizers, shards):
        assert (recipes[0] == recipes[1]) is (bad_rows == "error")
        for recipe, text in zip(recipes, texts, strict=True):
            assert text.reading.identity().items() - {("format", "text")} <= recipe.items()
