import json
import sys

import pytest

from candlewick.cli.main import main
from candlewick.tokenizer.train import train_tokenizer


@pytest.fixture
def files(tmp_path, text_dir):
    """Text, a tokenizer's folder, and where to write."""
    texts = [path.read_text() for path in sorted(text_dir.glob("*.txt"))]
    (tmp_path / "tok").mkdir()
    train_tokenizer(texts, vocab_size=400)[0].write(tmp_path / "tok")
    return text_dir, tmp_path / "tok", tmp_path / "ds"


def prepare(files, *more: str) -> int:
    text, tokenizer, output = map(str, files)
    return main(["data", "prepare", text, "--tokenizer", tokenizer, "--output", output, *more])


def test_prepare_writes_a_dataset_and_then_reuses_it(files, capsys):
    assert prepare(files) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"wrote: {files[2]}\n")
    assert "train" in out
    assert "validation" in out
    assert prepare(files, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["reused"] is True
    assert found["details"]["splits"]["train"]["documents"] == 12
    assert len(found["id"]) == 64


def test_prepare_takes_the_sources_and_settings_of_a_config(files, tmp_path, capsys):
    text, tokenizer, output = files
    config = tmp_path / "c.yaml"
    config.write_text(f"data:\n  train_shards: [{text}]\ntokenizer:\n  tokenizer_json: {tokenizer}\n")
    words = ["data", "prepare", "--config", str(config), "--output", str(output), "--json", "--workers", "1"]
    assert main([*words, "--override", "data.documents=line"]) == 0
    assert json.loads(capsys.readouterr().out)["config"]["documents"] == "line"


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["prepare", "--output", "ds", "--tokenizer", "tok"], 3, "no text was given"),
        (["prepare", "missing.txt", "--output", "ds", "--tokenizer", "TOK"], 3, "missing.txt does not exist"),
        (["prepare", "stdlib://", "--output", "ds"], 2, "no tokenizer is named (fix: give --tokenizer DIR"),
        (["prepare", "stdlib://", "--output", "ds", "--tokenizer", "no"], 3, "no does not exist"),
        (
            ["prepare", "a", "--output", "ds", "--tokenizer", "t", "--workers", "0"],
            2,
            "argument --workers: '0' is not a whole number from 1 on",
        ),
        (["inspect", "ds", "--decode", "-3"], 2, "argument --decode: '-3' is not a whole number from 0 on"),
        (["verify", "missing"], 3, "missing has no manifest.json"),
        (["inspect", "missing"], 3, "missing has no manifest.json"),
        (["sort"], 2, "invalid choice: 'sort'"),
    ],
)
def test_data_mistakes_are_one_line_with_the_fix(files, words, code, message, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    words = [str(files[1]) if word == "TOK" else word for word in words]
    assert main(["data", *words]) == code
    errors = capsys.readouterr().err
    assert message in errors
    assert "fix:" in errors
    assert errors.count("\n") == 1


def test_verify_prints_ok_or_names_the_damaged_file(files, capsys):
    prepare(files)
    capsys.readouterr()
    assert main(["data", "verify", str(files[2])]) == 0
    assert capsys.readouterr().out.startswith("ok: 7 files, ")
    assert main(["data", "verify", str(files[2]), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["ok"] is True
    path = files[2] / "shards" / "train-00000.bin"
    raw = bytearray(path.read_bytes())
    raw[100] ^= 1
    path.write_bytes(raw)
    assert main(["data", "verify", str(files[2])]) == 3
    assert "train-00000.bin has sha256" in capsys.readouterr().err


def test_verify_reads_text_shards(files, tmp_path, capsys):
    assert (
        main(
            ["data", "shard", "--source", str(files[0]), "--output", str(tmp_path / "text"), "--documents", "file"]
        )
        == 0
    )
    capsys.readouterr()
    folder = tmp_path / "text" / "train"
    size = (folder / "train_0000.jsonl").stat().st_size
    assert main(["data", "verify", str(folder)]) == 0
    assert capsys.readouterr().out == f"ok: 1 files, {size:,} bytes\n"
    assert main(["data", "verify", str(folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"dataset": str(folder), "ok": True, "files": 1, "bytes": size}
    (folder / "train_0000.jsonl").write_text("{}\n")
    assert main(["data", "verify", str(folder)]) == 3
    assert "train_0000.jsonl has 3 bytes" in capsys.readouterr().err


def test_inspect_shows_counts_and_the_first_tokens(files, capsys):
    prepare(files)
    capsys.readouterr()
    assert main(["data", "inspect", str(files[2]), "--decode", "8"]) == 0
    out = capsys.readouterr().out
    assert "vocabulary  400 tokens" in out
    assert "bad UTF-8   0 sequences" in out
    assert "bytes/token" in out
    assert "\n<|endoftext|>" in out
    assert main(["data", "inspect", str(files[2]), "--json", "--decode", "5"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert len(found["ids"]) == 5
    assert found["ids"][0] == 0
    assert found["text"].startswith("<|endoftext|>")
    assert main(["data", "inspect", str(files[2]), "--json"]) == 0
    assert "ids" not in json.loads(capsys.readouterr().out)


def test_inspect_reads_a_dataset_without_training_tokens(files, capsys):
    text, tokenizer, output = map(str, files)
    words = ["data", "prepare", "--tokenizer", tokenizer, "--output", output, "--workers", "1"]
    assert main([*words, "--override", f"data.validation_shards=[{text}]"]) == 0
    capsys.readouterr()
    assert main(["data", "inspect", output, "--decode", "8"]) == 0
    assert "\n<|endoftext|>" in capsys.readouterr().out


def test_inspect_counts_duplicates_left_out(files, tmp_path, capsys):
    (tmp_path / "a.jsonl").write_text("".join(f'{{"text": "row {i % 30}"}}\n' for i in range(50)))
    assert prepare((tmp_path / "a.jsonl", *files[1:]), "--override", "data.deduplicate=true") == 0
    capsys.readouterr()
    assert main(["data", "inspect", str(files[2])]) == 0
    assert "duplicates  20 left out" in capsys.readouterr().out


def test_prepare_refuses_a_mixture_without_a_named_source(files, tmp_path, capsys):
    config = tmp_path / "c.yaml"
    config.write_text(
        f"data: {{mixture: [{{shards: [{files[0]}]}}]}}\ntokenizer: {{tokenizer_json: {files[1]}}}\n"
    )
    words = ["data", "prepare", "--config", str(config), "--output", str(files[2])]
    assert main(words) == 2
    assert "a mixture is prepared one source at a time" in capsys.readouterr().err
    assert main([*words, str(files[0])]) == 0


def test_inspect_lists_where_bad_bytes_are(files, tmp_path, capsys):
    (tmp_path / "bad.txt").write_bytes(b"bad \xff words\n" * 400)
    assert prepare((tmp_path / "bad.txt", *files[1:])) == 0
    capsys.readouterr()
    assert main(["data", "inspect", str(files[2])]) == 0
    assert "bad.txt, byte 4" in capsys.readouterr().out


def test_inspect_escapes_terminal_control_characters(files, tmp_path, capsys, monkeypatch):
    (tmp_path / "red.txt").write_text("\x1b[31m red words\n" * 400)
    assert prepare((tmp_path / "red.txt", *files[1:])) == 0
    for is_terminal, shown in ((False, "\n<|endoftext|>\x1b[31m"), (True, "\n<|endoftext|>\u241b[31m")):
        monkeypatch.setattr(sys.stdout, "isatty", lambda answer=is_terminal: answer)
        capsys.readouterr()
        assert main(["data", "inspect", str(files[2]), "--decode", "9"]) == 0
        assert shown in capsys.readouterr().out
