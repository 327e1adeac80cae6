"""`candlewick import hf`: the choice of the tokenizer, and the printed next command."""

from typing import Any

from transformers import LlamaConfig, LlamaForCausalLM

from candlewick.cli.main import main


def test_import_hf_without_a_tokenizer_exits_3_and_with_one_prints_the_next_command(
    tmp_path, tokenizer_folder, capsys
):
    shape: dict[str, Any] = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
    }
    LlamaForCausalLM(LlamaConfig(**shape, vocab_size=320)).save_pretrained(tmp_path / "hf")
    words = ["import", "hf", str(tmp_path / "hf"), "--output", str(tmp_path / "ours")]
    assert main(words) == 3
    assert "does not exist" in capsys.readouterr().err  # it has no tokenizer
    assert main([*words, "--tokenizer", str(tokenizer_folder)]) == 0
    assert f"try: candlewick train --init-from {tmp_path / 'ours'}" in capsys.readouterr().out
