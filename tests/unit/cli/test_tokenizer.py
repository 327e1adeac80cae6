import io
import json
import sys

import pytest

from candlewick.artifacts.manifest import read_manifest
from candlewick.tokenizer.bpe import Tokenizer


@pytest.fixture
def folder(tokenizer_folder):
    """The name of a folder with a tokenizer, no artifact."""
    return str(tokenizer_folder)


@pytest.fixture
def run(run_candlewick):
    """Run a command that works; return what it prints."""
    return lambda *words: run_candlewick("tokenizer", *words).out


@pytest.fixture
def fails(run_candlewick):
    """Run a command that must fail; return the line that says why."""

    def fails(code: int, *words: object) -> str:
        err = run_candlewick("tokenizer", *words, code=code).err
        assert err.count("\n") == 1
        return err

    return fails


def type_in(monkeypatch, content: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content), encoding="utf-8"))


def test_train_writes_an_artifact_and_prints_its_figures(run, text_dir, tmp_path):
    words = ("train", text_dir, "--output", tmp_path / "tok", "--override", "tokenizer.vocab_size=300")
    out = run(*words)
    assert f"wrote: {tmp_path / 'tok'}\nvocabulary 300 of 300 requested tokens\n" in out
    assert "bytes per token on held-out text" in out
    manifest = read_manifest(tmp_path / "tok", "tokenizer")
    assert run(*words).startswith("up to date: ")
    shown = json.loads(run(*words, "--json"))
    assert (shown["id"], shown["reused"]) == (manifest.id, True)
    assert shown["details"]["vocab_size"] == 300


def test_train_takes_text_of_the_config_without_sources(run, text_dir, tmp_path):
    (tmp_path / "c.yaml").write_text(
        f"data: {{train_shards: [{text_dir}/00.txt]}}\ntokenizer: {{vocab_size: 280}}\n"
    )
    run("train", "--config", tmp_path / "c.yaml", "--output", tmp_path / "tok")
    assert Tokenizer.load(tmp_path / "tok").vocab_size == 280
    mixture = f"data.mixture=[{{shards: [{text_dir}/00.txt]}}]"
    words = ("--override", "data.train_shards=[]", "--override", mixture)
    run("train", "--config", tmp_path / "c.yaml", "--output", tmp_path / "mixed", *words)
    assert read_manifest(tmp_path / "mixed").id == read_manifest(tmp_path / "tok").id


def test_train_on_too_little_text_prints_no_held_out_figure(run, tmp_path, capsys):
    (tmp_path / "x.txt").write_text("hello hello")
    out = run("train", tmp_path / "x.txt", "--output", tmp_path / "tok")
    assert "of 32,000 requested tokens" in out
    assert "bytes per token" not in out


def test_train_without_text_exits_with_the_fix(fails, tmp_path):
    err = fails(2, "train", "--output", tmp_path / "tok")
    assert "there is no text to train on (fix: name files, folders, stories:// or stdlib://" in err
    assert "does not exist" in fails(3, "train", tmp_path / "nothing.txt", "--output", tmp_path / "tok")


def test_inspect_prints_vocabulary_pattern_and_special_tokens(run, folder, tokenizer):
    shown = json.loads(run("inspect", folder, "--json"))
    assert shown["vocab_size"] == 300
    assert shown["sha256"] == tokenizer.sha256
    assert (shown["pattern"], shown["delimiter_id"], shown["padding_id"]) == ("qwen2", 0, 1)
    assert shown["longest_tokens"][0] == "<|endoftext|>"
    assert "made" not in shown


def test_inspect_of_an_artifact_prints_its_config_and_details(run, text_dir, tmp_path):
    run("train", text_dir, "--output", tmp_path / "tok", "--override", "tokenizer.vocab_size=300")
    shown = json.loads(run("inspect", tmp_path / "tok", "--json"))
    assert shown["made"]["config"]["min_frequency"] == 2
    assert shown["made"]["details"]["bytes"] > 100_000
    lines = run("inspect", tmp_path / "tok").splitlines()
    assert "vocab_size                   300" in lines
    assert any(line.startswith("made.details.heldout.bytes_per_token") for line in lines)


def test_inspect_text_prints_figures_of_the_text(run, folder, text_dir, fails, tmp_path):
    text = json.loads(run("inspect", folder, "--text", text_dir / "00.txt", "--json"))["text"]
    assert text["bytes"] == (text_dir / "00.txt").stat().st_size
    assert "gone.txt" in fails(2, "inspect", folder, "--text", tmp_path / "gone.txt")


def test_encode_and_decode_convert_text_and_ids(run, folder, tokenizer):
    text = "the time, <|endoftext|> é"
    ids = tokenizer.encode(text)
    assert run("encode", folder, text) == " ".join(map(str, ids)) + "\n"
    assert run("decode", folder, *ids) == text + "\n"
    assert run("decode", folder, 0, *ids, 1) == f"<|endoftext|>{text}<|padding|>\n"
    shown = json.loads(run("encode", folder, text, "--json"))
    assert shown["ids"] == ids
    assert len(shown["pieces"]) == len(ids)
    assert "".join(shown["pieces"]).startswith("the time, <|endoftext|> ")


@pytest.mark.parametrize("words", [[], ["-"]])
def test_encode_reads_standard_input(run, folder, tokenizer, monkeypatch, words):
    type_in(monkeypatch, "a line\r\né\n".encode())
    assert run("encode", folder, *words).split() == [str(i) for i in tokenizer.encode("a line\r\né\n")]


def test_encode_and_decode_refuse_wrong_input_in_one_line(fails, folder, monkeypatch, tmp_path):
    type_in(monkeypatch, b"\xff")
    assert "standard input: byte 0 is not UTF-8" in fails(3, "encode", folder)
    assert "half a surrogate pair" in fails(3, "encode", folder, "\udcff")
    assert "there is no token 300 (fix: ids are 0 to 299)" in fails(3, "decode", folder, 5, 300)
    assert "does not exist" in fails(3, "encode", tmp_path / "nothing", "text")
    assert "invalid int value: 'x'" in fails(2, "decode", folder, "x")
    assert "ACTION" in fails(2)


def test_decode_escapes_terminal_control_characters(run, folder, tokenizer, monkeypatch):
    ids = tokenizer.encode("red \x1b[31m")
    assert run("decode", folder, *ids) == "red \x1b[31m\n"
    assert json.loads(run("decode", folder, *ids, "--json")) == {"ids": ids, "text": "red \x1b[31m"}
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert run("decode", folder, *ids) == "red \u241b[31m\n"


def test_inspect_opens_the_tokenizer_of_a_configuration(run, fails, folder, tmp_path):
    (tmp_path / "c.yaml").write_text("tokenizer: {tokenizer_json: tokenizer}\n")
    shown = json.loads(run("inspect", "--config", tmp_path / "c.yaml", "--json"))
    assert shown["vocab_size"] == 300
    assert (shown["end_id"], shown["template"], shown["document"]) == (None, None, "<|endoftext|> TEXT")
    assert "no tokenizer is named" in fails(2, "inspect")


def test_train_without_output_exits_2_with_the_fix(fails, text_dir):
    assert "give --output DIR" in fails(2, "train", text_dir)
