"""Imported Hugging Face models compute equal logits; other folders are refused."""

import json
import shutil
from typing import Any

import pytest
import torch
from tests.prepared import newest_checkpoint
from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

from candlewick.artifacts.manifest import read_manifest
from candlewick.checkpoint.load import load_for_inference
from candlewick.errors import CheckpointError
from candlewick.runs.import_hf import import_hugging_face

SHAPE = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
COMMON: dict[str, Any] = {**SHAPE, "num_key_value_heads": 2, "vocab_size": 320, "max_position_embeddings": 64}


MODELS = {
    "llama": (LlamaForCausalLM, LlamaConfig, {"attention_bias": True}),
    "qwen3": (Qwen3ForCausalLM, Qwen3Config, {"head_dim": 16, "tie_word_embeddings": True}),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("sharded", [False, True])
@pytest.mark.parametrize("kind", MODELS)
def test_imported_models_of_hugging_face_compute_the_same_logits(
    tmp_path, tokenizer_folder, kind, sharded, dtype, core_row
):
    model_class, config_class, more = MODELS[kind]
    torch.manual_seed(0)
    theirs = model_class(config_class(**COMMON, **more)).to(dtype).eval()
    theirs.save_pretrained(tmp_path / "hf", max_shard_size="40KB" if sharded else "1GB")
    theirs = model_class.from_pretrained(tmp_path / "hf", dtype=torch.float32).eval()
    assert (tmp_path / "hf" / "model.safetensors.index.json").is_file() == sharded
    result = import_hugging_face(str(tmp_path / "hf"), tmp_path / "ours", tokenizer_folder)
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


def test_buffers_of_old_hugging_face_files_are_dropped(tmp_path, tokenizer_folder):
    from safetensors.torch import load_file, save_file

    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(**COMMON)).save_pretrained(tmp_path / "hf")
    path = tmp_path / "hf" / "model.safetensors"
    save_file({**load_file(path), "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}, path)
    assert import_hugging_face(str(tmp_path / "hf"), tmp_path / "ours", tokenizer_folder).step is None


def test_import_refuses_unsupported_models_and_too_large_tokenizers(tmp_path, tokenizer_folder):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    with pytest.raises(CheckpointError, match="describes a 'gpt2' model"):
        import_hugging_face(str(tmp_path), tmp_path / "ours", tokenizer_folder)
    LlamaForCausalLM(LlamaConfig(**{**COMMON, "vocab_size": 100})).save_pretrained(tmp_path / "small")
    with pytest.raises(CheckpointError, match="the tokenizer has 300 tokens, the model .* has 100 rows"):
        import_hugging_face(str(tmp_path / "small"), tmp_path / "ours", tokenizer_folder)


def test_model_of_a_run_is_imported_from_its_newest_checkpoint(trained, tmp_path):
    import_hugging_face(str(trained), tmp_path / "out")
    newest = newest_checkpoint(trained / "checkpoints")
    assert read_manifest(tmp_path / "out").inputs["parent"] == read_manifest(newest).id


@pytest.mark.parametrize("is_own", [True, False])
def test_import_keeps_the_template_and_the_generation_settings(tmp_path, tokenizer_folder, is_own):
    source = tmp_path / "hf"
    LlamaForCausalLM(LlamaConfig(**COMMON)).save_pretrained(source)
    settings = {"do_sample": True, "temperature": 0.6, "top_k": 20, "top_p": 0.95, "repetition_penalty": 1.05}
    (source / "generation_config.json").write_text(json.dumps(settings | {"eos_token_id": [9, 8, 1000, True]}))
    (tokenizer_folder / "chat_template.jinja").write_text("theirs")
    if is_own:
        shutil.copytree(tokenizer_folder, source, dirs_exist_ok=True)
    import_hugging_face(str(source), tmp_path / "ours", None if is_own else tokenizer_folder)
    written = json.loads((tmp_path / "ours" / "generation_config.json").read_bytes())
    assert written.items() >= (settings | {"eos_token_id": [9, 8, 0], "bos_token_id": 0}).items()
    _, tokenizer = load_for_inference(tmp_path / "ours", torch.device("cpu"))
    assert tokenizer.stop_ids == (9, 8, 0)
    config = json.loads((tmp_path / "ours" / "tokenizer_config.json").read_bytes())
    assert config["chat_template"] == "theirs"
