"""Importing: what is written, and what is refused before anything is."""

import json

import pytest
import torch
from tests.seed import Candle
from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

from candlewick.artifacts.manifest import read_manifest
from candlewick.checkpoint.layout import candidates
from candlewick.checkpoint.load import load_for_inference
from candlewick.config import AdamWConfig, RunConfig
from candlewick.config.load import load_config
from candlewick.errors import CheckpointError, ConfigError
from candlewick.runs.importing import fetch_candle, import_candle, import_hugging_face

SHAPE = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
COMMON = {**SHAPE, "num_key_value_heads": 2, "vocab_size": 320, "max_position_embeddings": 64}


@pytest.fixture
def config():
    return RunConfig(optimizer=AdamWConfig())


@pytest.fixture
def folder(tmp_path):
    return Candle(320, 32, 1, 64, 2).write(tmp_path / "seed")


def test_the_run_says_where_it_came_from(tmp_path, folder, config, tokenizer):
    run = tmp_path / "run"
    result = import_candle(folder, config, tokenizer, run, heads=2, weights_only=False)
    assert (result.step, result.vocab_size, result.output) == (7, 320, run)
    manifest = read_manifest(candidates(run)[0])
    assert manifest.inputs.keys() == {"tokenizer", "parent"}
    saved = load_config(run)
    assert saved.model == result.model
    assert saved.tokenizer.tokenizer_json == run / "tokenizer"
    with pytest.raises(ConfigError, match="holds a run already"):
        import_candle(folder, config, tokenizer, run, heads=2, weights_only=False)


def test_the_optimizer_has_to_be_adamw(tmp_path, folder, tokenizer):
    with pytest.raises(ConfigError, match="AdamW's state, the settings say optimizer.algorithm=muon"):
        import_candle(folder, RunConfig(), tokenizer, tmp_path / "run", heads=2, weights_only=False)
    assert not (tmp_path / "run").exists()
    result = import_candle(folder, RunConfig(), tokenizer, tmp_path / "run", heads=2, weights_only=True)
    assert result.step is None


def test_a_tokenizer_with_more_tokens_than_rows(tmp_path, config, tokenizer):
    small = Candle(200, 32, 1, 64, 2).write(tmp_path / "seed")
    with pytest.raises(CheckpointError, match="the tokenizer has 300 tokens, the model .* has 200 rows"):
        import_candle(small, config, tokenizer, tmp_path / "run", heads=2, weights_only=False)


def test_settings_that_do_not_fit_the_model(tmp_path, folder, tokenizer):
    config = RunConfig.model_validate(
        {"data": {"sequence_length": 512}, "model": {"num_attention_heads": 2, "hidden_size": 32}}
    ).model_copy(update={"optimizer": AdamWConfig()})
    config = config.model_copy(update={"model": config.model.model_copy(update={"max_position_embeddings": 16})})
    with pytest.raises(ConfigError, match="the settings do not fit the model"):
        import_candle(folder, config, tokenizer, tmp_path / "run", heads=None, weights_only=False)


def test_a_local_folder_is_taken_as_it_is(tmp_path):
    assert fetch_candle(str(tmp_path)) == tmp_path


MODELS = {
    "llama": (LlamaForCausalLM, LlamaConfig, {"attention_bias": True}),
    "qwen3": (Qwen3ForCausalLM, Qwen3Config, {"head_dim": 16, "tie_word_embeddings": True}),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("sharded", [False, True])
@pytest.mark.parametrize("kind", MODELS)
def test_models_of_hugging_face_compute_the_same(tmp_path, tokenizer, kind, sharded, dtype, core_row):
    model_class, config_class, more = MODELS[kind]
    torch.manual_seed(0)
    theirs = model_class(config_class(**COMMON, **more)).to(dtype).eval()
    theirs.save_pretrained(tmp_path / "hf", max_shard_size="40KB" if sharded else "1GB")
    theirs = model_class.from_pretrained(tmp_path / "hf", dtype=torch.float32).eval()
    assert (tmp_path / "hf" / "model.safetensors.index.json").is_file() == sharded
    result = import_hugging_face(str(tmp_path / "hf"), tmp_path / "ours", tokenizer)
    assert result.parameters == sum(parameter.numel() for parameter in theirs.parameters())
    model, _ = load_for_inference(tmp_path / "ours", torch.device("cpu"))
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    tokens = torch.randint(300, (2, 40), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected, found = theirs(tokens).logits, model(tokens)
    error = (found - expected).abs().max() / expected.abs().max()
    core_row(f"import hf, {kind}", "transformers, of the largest logit", error.item(), 1e-5)
    with torch.no_grad():
        round_trip = model_class.from_pretrained(tmp_path / "ours", dtype=torch.float32).eval()(tokens).logits
    assert torch.equal(round_trip, expected)


def test_buffers_of_old_files_are_left_out(tmp_path, tokenizer):
    from safetensors.torch import load_file, save_file

    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(**COMMON)).save_pretrained(tmp_path / "hf")
    path = tmp_path / "hf" / "model.safetensors"
    save_file({**load_file(path), "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}, path)
    assert import_hugging_face(str(tmp_path / "hf"), tmp_path / "ours", tokenizer).step is None


def test_what_is_no_model_is_refused(tmp_path, tokenizer):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    with pytest.raises(CheckpointError, match="describes a 'gpt2' model"):
        import_hugging_face(str(tmp_path), tmp_path / "ours", tokenizer)
    LlamaForCausalLM(LlamaConfig(**{**COMMON, "vocab_size": 100})).save_pretrained(tmp_path / "small")
    with pytest.raises(CheckpointError, match="the tokenizer has 300 tokens, the model .* has 100 rows"):
        import_hugging_face(str(tmp_path / "small"), tmp_path / "ours", tokenizer)
