"""`candlewick import`: which tokenizer and configuration are taken, and what is said."""

import json

import pytest
from tests.seed import Candle
from transformers import LlamaConfig, LlamaForCausalLM

from candlewick.cli.main import main
from candlewick.config.tree import dump_yaml


@pytest.fixture
def tokenizer_folder(tokenizer, tmp_path):
    """A folder with the tokenizer of 300 tokens."""
    folder = tmp_path / "tokenizer"
    folder.mkdir()
    tokenizer.write(folder)
    return folder


@pytest.fixture
def run(tmp_path, tiny, tokenizer_folder):
    """A run of the seed: RUN/training.yaml, RUN/tokenizer, RUN/checkpoints/step_*."""
    folder = tmp_path / "seed"
    Candle(320, 32, 1, 64, 2).write(folder / "checkpoints")
    config = tiny(optimizer={"algorithm": "adam_w", "learning_rate": 1e-3})
    shape = {"hidden_size": 32, "num_layers": 1, "intermediate_size": 64}
    config = config.model_copy(update={"model": config.model.model_copy(update=shape)})
    (folder / "training.yaml").write_text(dump_yaml(config))
    (folder / "tokenizer").symlink_to(tokenizer_folder)
    return folder


def test_the_folder_of_a_run_says_all(run, tmp_path, capsys):
    words = ["import", "candle", str(run), "--output", str(tmp_path / "out")]
    assert main(words) == 0
    output = capsys.readouterr().out
    assert "1 layers of 32, 2 heads, 320 tokens" in output
    assert f"step 7; go on: candlewick train --run-dir {tmp_path / 'out'} --resume" in output


def test_the_result_for_a_program(run, tmp_path, capsys):
    assert main(["import", "candle", str(run), "--output", str(tmp_path / "out"), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["step"], result["vocab_size"], result["model"]["mlp"]) == (7, 320, "silu")


def test_what_is_missing_is_asked_for(run, tmp_path, capsys):
    (run / "training.yaml").unlink()
    words = ["import", "candle", str(run), "--output", str(tmp_path / "out")]
    assert main(words) == 2
    assert "says nothing of its run (fix: give --config" in capsys.readouterr().err
    (run / "tokenizer").unlink()
    assert main([*words, "--weights-only", "--heads", "2"]) == 2
    assert "no tokenizer is named, and none lies in" in capsys.readouterr().err


def test_the_tokenizer_of_the_configuration(run, tmp_path, tokenizer_folder, capsys):
    (run / "tokenizer").unlink()
    words = ["import", "candle", str(run), "--output", str(tmp_path / "out")]
    assert main([*words, "--override", f"tokenizer.tokenizer_json={tokenizer_folder}"]) == 0
    assert main([*words[:-1], str(tmp_path / "other"), "--tokenizer", str(tokenizer_folder)]) == 0


def test_a_hugging_face_folder(tmp_path, tokenizer_folder, capsys):
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4}
    LlamaForCausalLM(LlamaConfig(**shape, vocab_size=320)).save_pretrained(tmp_path / "hf")
    words = ["import", "hf", str(tmp_path / "hf"), "--output", str(tmp_path / "ours")]
    assert main(words) == 3
    assert "does not exist" in capsys.readouterr().err  # it has no tokenizer
    assert main([*words, "--tokenizer", str(tokenizer_folder)]) == 0
    assert f"try: candlewick train --init-from {tmp_path / 'ours'}" in capsys.readouterr().out
