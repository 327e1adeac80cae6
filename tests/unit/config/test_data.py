import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from candlewick.config import BatchStage, DataConfig, MixtureSource, TokenizerConfig


def read(**data) -> DataConfig:
    return DataConfig.model_validate_json(json.dumps(data))


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"global_batch_size": 8, "global_batch_tokens": 8}, "set one of them"),
        ({"train_shards": ["a"], "mixture": [{"shards": ["b"]}]}, "train_shards and mixture both say"),
        ({"order": "global", "shuffle_buffer_size": 8}, "set data.shuffle_buffer_size=null"),
        ({"validation_sets": {"a b": ["x"]}}, "'a b' is not a valid name; use letters, digits and _"),
        ({"validation_sets": {"é": ["x"]}}, "is not a valid name"),
        (
            {"mixture": [{"shards": ["a"]}], "validation_sets": {"mixture_0": ["x"]}},
            "'mixture_0' is the name of held-out text of the mixture; rename it",
        ),
        ({"mixture": [{"shards": []}]}, "at least 1 item"),
        ({"mixture": [{"shards": ["a"], "weight": 0}]}, "greater than or equal to 1"),
        ({"mixture": [{"weight": 3}]}, "Field required"),
        ({"batch_ramp": [{"steps": 1}]}, "Field required"),
        ({"micro_batch_size": "8"}, "valid integer"),
        ({"micro_batch_size": True}, "valid integer"),
        ({"sequence_length": 1}, "greater than or equal to 2"),
        ({"validation_fraction": 1.0}, "less than 1"),
    ],
)
def test_data_section_refuses_wrong_or_conflicting_settings(data, said):
    with pytest.raises(ValidationError) as caught:
        read(**data)
    assert said in str(caught.value)


def test_data_order_is_global_without_a_shuffle_buffer():
    assert read().order == "global"
    assert read(shuffle_buffer_size=8).order == "window"
    assert read(order="window").shuffle_buffer_size is None


def test_data_section_reads_mixture_batch_ramp_and_validation_sets():
    data = read(
        mixture=[{"shards": ["a"], "weight": 3}, {"shards": ["b", "c"]}],
        batch_ramp=[{"steps": 2, "global_batch_size": 8}],
        validation_sets={"web": ["w.txt"], "code_2": ["c"]},
    )
    assert data.mixture == (MixtureSource(shards=("a",), weight=3), MixtureSource(shards=("b", "c")))
    assert data.batch_ramp == (BatchStage(steps=2, global_batch_size=8),)
    assert data.validation_sets == {"web": ("w.txt",), "code_2": ("c",)}


def test_vocab_size_holds_at_least_bytes_and_special_tokens():
    assert TokenizerConfig(vocab_size=258).vocab_size == 258
    with pytest.raises(ValidationError, match="greater than or equal to 258"):
        TokenizerConfig(vocab_size=257)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"vocab": "v.json"}, "vocab and merges belong together"),
        ({"merges": "m.txt"}, "vocab and merges belong together"),
        ({"special_tokens": "s.txt"}, "set tokenizer.special_tokens=null"),
        ({"max_train_lines": 0}, "greater than or equal to 1"),
    ],
)
def test_tokenizer_section_refuses_incomplete_or_conflicting_files(settings, said):
    with pytest.raises(ValidationError, match=said):
        TokenizerConfig.model_validate_json(json.dumps(settings))


def test_tokenizer_section_accepts_both_layouts_together():
    paths = {"tokenizer_json": "t.json", "vocab": "v.json", "merges": "m.txt", "special_tokens": "s.txt"}
    assert TokenizerConfig.model_validate_json(json.dumps(paths)).vocab == Path("v.json")
