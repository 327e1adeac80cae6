"""What users of transformer_candle are told about sizes and rates."""

import json
import re

import pytest

from candlewick.compat.candle.settings import CandleDialect
from candlewick.config.load import load_config
from candlewick.model.flops import model_size


@pytest.mark.parametrize(
    ("name", "shape", "there", "here"),
    [
        ("m3_medium", (384, 1536, 6, 6), "26,4", "22,910,592"),
        ("runpod_1b", (2048, 8192, 20, 32), "1,407,", "1,069,634,048"),
        ("runpod_2b", (2560, 10240, 24, 40), "2,598,", "1,961,620,992"),
        ("runpod_4b", (3072, 12288, 32, 48), "4,930,", "3,722,386,432"),
    ],
)
def test_file_with_the_name_of_a_profile_is_compared_with_it(tmp_path, notes, name, shape, there, here):
    sizes = dict(
        zip(("hidden_size", "intermediate_size", "num_layers", "num_attention_heads"), shape, strict=True)
    )
    path = tmp_path / f"{name}.yaml"
    path.write_text(json.dumps({"model": sizes, "data": {"batch_size": 6}}))
    load_config(path, (), notes.append, CandleDialect())
    (said,) = [note for note in notes if "another model than the shipped profile" in note]
    assert re.search(
        rf"the file has {there}[\d,]* parameters, adam_w; `--config {name}` has {here} param.*, muon", said
    )


def test_file_with_the_size_of_the_profile_of_its_name_is_not_compared(tmp_path, notes):
    shape = {"hidden_size": 128, "intermediate_size": 512, "num_layers": 2, "num_attention_heads": 2}
    (tmp_path / "local.yaml").write_text(json.dumps({"model": shape, "data": {"batch_size": 4}}))
    load_config(tmp_path / "local.yaml", (), notes.append, CandleDialect())
    assert not any("another model" in note for note in notes)


def test_rate_of_adamw_given_to_muon_is_noted(notes):
    load_config("m3_medium", ["optimizer.learning_rate=4e-5"], notes.append, CandleDialect())
    (said,) = notes
    assert said.startswith("optimizer.learning_rate=4e-05 is the rate of Muon, 1/500 of its default 0.02; ")
    load_config("m3_medium", ["optimizer.learning_rate=0.01"], notes.append, CandleDialect())
    load_config("local", ["optimizer.learning_rate=4e-5"], notes.append, CandleDialect())
    assert len(notes) == 1


@pytest.mark.parametrize(
    "model",
    ["", ", qk_norm: false", ", qk_norm: false, attention_bias: true, mlp_bias: true", ", num_key_value_heads: 1"],
)
def test_intermediate_size_is_kept_and_a_note_counts_its_parameters(model, load, notes):
    shape = f"hidden_size: 64, num_layers: 3, num_attention_heads: 2, intermediate_size: 256{model}"
    config = load(f"data: {{batch_size: 8}}\nmodel: {{{shape}, vocab_size: 512}}\n")
    told = next(note for note in notes if "is kept" in note)
    rest = 512 * 64 + 64  # the table and the last norm
    small = config.model.replaced(intermediate_size=128)
    assert f"{model_size(config.model, 512).total - rest:,} parameters and 32,768 in the embedding" in told
    assert f"intermediate_size: 128 gives {model_size(small, 512).total - rest:,}" in told


def test_named_block_settings_give_no_note_of_the_width(load, notes):
    load("data: {batch_size: 8}\nmodel: {hidden_size: 64, num_attention_heads: 2, mlp: silu, qk_norm: false}\n")
    assert not any("is kept" in note for note in notes)
