import pytest

from candlewick.config import TokenizerConfig
from candlewick.errors import ConfigError, DataError
from candlewick.runs.report.tokenizer import decode_ids, decode_utf8, encode_text, inspect_tokenizer


def test_inspection_is_equal_for_a_folder_a_file_settings_and_an_open_tokenizer(tokenizer_folder, tokenizer):
    sources = [
        tokenizer_folder,
        tokenizer_folder / "tokenizer.json",
        TokenizerConfig(tokenizer_json=tokenizer_folder),
        tokenizer,
    ]
    results = [inspect_tokenizer(source, None) for source in sources]
    assert all(result == results[0] for result in results)
    assert (results[0]["vocab_size"], results[0]["sha256"]) == (300, tokenizer.sha256)
    assert results[0]["longest_tokens"][0] == "<|endoftext|>"


def test_inspection_of_settings_without_a_tokenizer_is_an_error():
    with pytest.raises(ConfigError, match="no tokenizer is named"):
        inspect_tokenizer(TokenizerConfig(), None)


def test_inspection_shows_training_details_of_a_tokenizer_artifact_only(trained, tokens, tmp_path):
    checkpoint = next((trained / "checkpoints").iterdir())
    assert "made" not in inspect_tokenizer(checkpoint, None)  # its manifest is that of a checkpoint
    assert "made" not in inspect_tokenizer(tokens / "tokenizer", None)  # it has none
    made = next(folder for folder in tokens.parent.glob("tokenizer-*") if (folder / "manifest.json").is_file())
    assert inspect_tokenizer(made, None)["made"]["config"]["min_frequency"] == 2


def test_inspection_measures_a_text(tokenizer_folder, text_dir, tokenizer):
    text = inspect_tokenizer(tokenizer_folder, text_dir / "00.txt")["text"]
    assert text["bytes"] == (text_dir / "00.txt").stat().st_size
    assert text["tokens"] == len(tokenizer.encode((text_dir / "00.txt").read_text()))
    assert text["changed_texts"] == 0


def test_text_that_is_not_utf8_is_refused_with_file_and_byte(tokenizer_folder, tmp_path):
    (tmp_path / "bad.txt").write_bytes(b"abc\xff")
    with pytest.raises(DataError, match=r"bad\.txt: byte 3 is not UTF-8"):
        inspect_tokenizer(tokenizer_folder, tmp_path / "bad.txt")
    assert decode_utf8("é".encode(), "standard input") == "é"


def test_encoded_text_decodes_to_the_same_text(tokenizer_folder, tokenizer):
    text = "the time, <|endoftext|> é"
    encoded = encode_text(tokenizer_folder, text)
    assert encoded["ids"] == tokenizer.encode(text)
    assert "".join(encoded["pieces"]).startswith("the time, <|endoftext|> ")
    assert decode_ids(tokenizer_folder, encoded["ids"]) == {"ids": encoded["ids"], "text": text}
