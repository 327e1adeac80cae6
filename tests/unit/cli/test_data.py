"""`candlewick data`; `data shard` has the flags of transformer_candle's sharder and those of Candlewick."""

import gzip
import json
import shlex
import sys

import pytest
from tests.corpora import jsonl
from tests.hub_server import HubServer

from candlewick.artifacts.manifest import read_manifest
from candlewick.cli import data
from candlewick.cli.main import main
from candlewick.data.shards.writer import ShardWriter
from candlewick.tokenizer.train import train_tokenizer

LINES = "A line that is long enough.\n\nshort\nAnother line of this text.\n"


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
    (tmp_path / "bad.txt").write_bytes(b"bad \xff words\n" + b"good words\n" * 400)
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


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("".join(f"document {number} of the text\n" for number in range(60)))
    return path


@pytest.fixture
def shard(text, tmp_path):
    """Shard the text: `shard("--take", "5")` returns the manifests' details of train and val."""

    def run(*words, source=True):
        given = ["--source", str(text)] if source else []
        assert main(["data", "shard", *given, "--output", str(tmp_path / "out"), "--replace", *words]) == 0
        folders = (tmp_path / "out" / "train", tmp_path / "out" / "val")
        return [read_manifest(folder, "text").details for folder in folders if folder.exists()]

    return run


def test_shard_modes_smoke_prod_and_split(shard, text, tmp_path, monkeypatch, capsys):
    (train,) = shard()
    assert (train["total_lines"], train["mode"]) == (60, "prod")
    monkeypatch.setattr(data, "_SMOKE_DOCUMENTS", 50)
    train, val = shard("--mode", "smoke")
    assert (train["total_lines"] + val["total_lines"], train["mode"]) == (50, "smoke")
    train, val = shard("--mode", "smoke", "--take", "55")
    assert train["total_lines"] + val["total_lines"] == 55  # of transformer_candle's guide: more than is usual
    train, val = shard("--mode", "split", "--val-ratio", "0.5")
    assert train["total_lines"] + val["total_lines"] == 60
    assert val["total_lines"] > 15
    assert main(["data", "shard", "--source", str(text), "--output", str(tmp_path / "x"), "--mode", "split"]) == 2
    assert "--val-ratio" in capsys.readouterr().err


def test_shard_take_and_lines_per_shard_limit_the_shards(shard, tmp_path):
    (train,) = shard("--take", "25", "--lines-per-shard", "10")
    assert [one["lines"] for one in train["shards"]] == [10, 10, 5]
    assert [one["path"] for one in train["shards"]] == [f"train_{number:04}.jsonl" for number in range(3)]
    assert train["lines_per_shard"] == 10


def test_shard_seed_selects_the_held_out_documents(shard, tmp_path):
    held = set()
    for seed in ("17", "18"):
        shard("--mode", "split", "--val-ratio", "0.3", "--seed", seed)
        held.add((tmp_path / "out" / "val" / "val_0000.jsonl").read_text())
    assert len(held) == 2


def test_shard_format_gzip_and_documents_set_the_output(shard, tmp_path):
    shard("--format", "text", "--gzip")
    lines = gzip.decompress((tmp_path / "out" / "train" / "train_0000.txt.gz").read_bytes()).decode().splitlines()
    assert lines[0] == "document 0 of the text"
    (train,) = shard("--documents", "file")
    assert train["total_lines"] == 1


def test_shard_text_field_names_the_column(tmp_path, capsys):
    (tmp_path / "code.jsonl").write_text('{"content": "x = 1"}\n')
    words = ["data", "shard", "--source", str(tmp_path / "code.jsonl"), "--text-field", "content"]
    assert main([*words, "--train-output", str(tmp_path / "train"), "--json"]) == 0
    (result,) = json.loads(capsys.readouterr().out)["outputs"]
    assert (result["output"], result["total_lines"]) == (str(tmp_path / "train"), 1)
    assert json.loads((tmp_path / "train" / "train_0000.jsonl").read_text()) == {"text": "x = 1"}


def test_shard_reads_a_hub_dataset_with_the_flags_of_fineweb_sharder(tmp_path, hub, capsys, monkeypatch):
    token = "hf_canaryCANARYcanary"
    used = {}
    monkeypatch.setattr("candlewick.cli.data.use_hub", lambda **given: used.update(given))
    rows = jsonl(f"row {number}" for number in range(40))
    hub.commit("datasets/me/web", {"data/train-0.jsonl": rows, "data/test-0.jsonl": rows[:12]})
    words = ["data", "shard", "--dataset", "me/web", "--split", "train", "--mode", "prod", "--workers", "2"]
    words += ["--train-output", str(tmp_path / "t"), "--val-output", str(tmp_path / "v"), "--hf-token", token]
    assert main([*words, "--cache-root", str(tmp_path / "cache")]) == 0
    output = capsys.readouterr()
    assert "40 documents in 1 shards" in output.out
    assert token not in output.out + output.err + (tmp_path / "t" / "manifest.json").read_text()
    assert used == {"token": token, "home": tmp_path / "cache"}
    assert not (tmp_path / "v").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--source", "a", "--dataset", "b/c"], "--source and --dataset both say what to read"),
        (["--source", "a", "--val-ratio", "1"], "--val-ratio 1.0 is not a share from 0 to below 1"),
        (["--source", "a", "--mode", "split", "--val-ratio", "0"], "--mode split holds out a share"),
        (["--source", "hf://a"], "hf://a names nothing on the Hub"),
        (["--source", "a", "--val-ratio", "x"], "--val-ratio: invalid float value: 'x'"),
    ],
)
def test_shard_mistakes_exit_with_a_message(words, said, capsys):
    assert main(["data", "shard", *words]) == (3 if "hf://a" in words else 2)
    assert said in capsys.readouterr().err


def test_shard_exits_5_on_ctrl_c_and_the_same_command_continues(text, tmp_path, capsys, monkeypatch):
    words = ["data", "shard", "--source", str(text), "--output", str(tmp_path / "out"), "--lines-per-shard", "7"]
    written = []

    def stop(self, line, real=ShardWriter.add):
        written.append(line)
        if len(written) == 30:
            raise KeyboardInterrupt
        real(self, line)

    monkeypatch.setattr(ShardWriter, "add", stop)
    assert main(words) == 5
    assert capsys.readouterr().err.endswith(f" candlewick {shlex.join(words)}\n")
    assert len(list((tmp_path / "out" / "train.partial").glob("train_*.jsonl"))) >= 4
    assert main(words) == 0
    assert len(written) == 30 + 60 - 28  # four shards of seven were finished
    lines = b"".join(path.read_bytes() for path in sorted((tmp_path / "out" / "train").glob("*.jsonl")))
    assert [json.loads(line)["text"] for line in lines.splitlines()] == text.read_text().splitlines()


@pytest.fixture
def dataset_hub(hub: HubServer) -> HubServer:
    hub.commit("datasets/me/a", {"train.jsonl": b'{"text": "one"}\n{"text": "two"}\n'})
    return hub


def test_fetch_prints_fetched_reused_and_failed_datasets(dataset_hub, tmp_path, capsys):
    words = ["data", "fetch", "hf://datasets/me/a", "--output", str(tmp_path)]
    assert main(words) == 0
    assert capsys.readouterr().out.split() == ["a", "fetched", "2", "documents"]
    assert main(words) == 0
    assert "up to date" in capsys.readouterr().out
    assert main([*words, "hf://datasets/me/none"]) == 3
    output = capsys.readouterr()
    assert "none                    failed" in output.out
    assert "1 of 2 datasets could not be fetched" in output.err
    assert main([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["a"]["total_lines"] == 2


def test_fetch_list_prints_the_known_datasets(capsys):
    assert main(["data", "fetch", "--list"]) == 0
    assert "hf://datasets/HuggingFaceFW/fineweb/sample/10BT" in capsys.readouterr().out
    assert main(["data", "fetch", "--list", "--json"]) == 0
    assert "pg19" in json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("words", [[], ["pg19"], ["--output", "x"]])
def test_fetch_without_datasets_or_output_exits_2(words, capsys):
    assert main(["data", "fetch", *words]) == 2
    assert "no dataset or no folder to write to is given" in capsys.readouterr().err


@pytest.fixture
def raw(tmp_path):
    """data/raw with two corpora, one of them fetched."""
    for name, count in (("hbs", 2), ("paul", 3)):
        (tmp_path / "raw" / name).mkdir(parents=True)
        for number in range(count):
            (tmp_path / "raw" / name / f"{number}.txt").write_text(f"{name} {number} says: {LINES}")
    (tmp_path / "raw" / "paul" / "empty.txt").write_text("tiny")
    return tmp_path / "raw"


def preprocess(raw, tmp_path, *words):
    return main(["data", "preprocess", str(tmp_path / "out"), "--input", str(raw), *words])


def documents(folder):
    lines = (folder / "train_0000.jsonl").read_text().splitlines()
    return [json.loads(line)["text"] for line in lines]


def test_preprocess_cleans_each_corpus_and_counts_what_it_dropped(raw, tmp_path, capsys):
    assert preprocess(raw, tmp_path) == 0
    table = capsys.readouterr().out.splitlines()
    assert table[1].split() == ["hbs_corpus", "2", "0", "6", "2", "0", "134"]
    assert table[2].split()[:5] == ["paul_corpus", "4", "1", "10", "4"]
    expected = [f"hbs {i} says: A line that is long enough.\n\nAnother line of this text." for i in range(2)]
    assert documents(tmp_path / "out" / "hbs_corpus") == expected
    assert read_manifest(tmp_path / "out" / "paul_corpus", "text").details["cleaning"]["empty_documents"] == 1


def test_preprocess_mixed_writes_one_corpus(raw, tmp_path, capsys):
    assert preprocess(raw, tmp_path, "--mixed", "--json") == 0
    assert json.loads(capsys.readouterr().out)["mixed_corpus"]["total_lines"] == 5
    assert not any("---" in text for text in documents(tmp_path / "out" / "mixed_corpus"))


def test_preprocess_writes_the_format_of_transformer_candle(raw, tmp_path):
    assert preprocess(raw, tmp_path, "--format", "text", "--documents", "line") == 0
    text = (tmp_path / "out" / "hbs_corpus" / "train_0000.txt").read_text()
    assert text.splitlines()[:2] == ["hbs 0 says: A line that is long enough.", "Another line of this text."]


def test_preprocess_hf_takes_fetched_folders_only(raw, tmp_path, capsys):
    assert preprocess(raw, tmp_path, "--hf") == 3
    assert "nothing that `candlewick data fetch` brought" in capsys.readouterr().err
    source = ["data", "shard", "--source", str(raw / "hbs"), "--train-output", str(raw / "web")]
    assert main(source) == 0
    assert preprocess(raw, tmp_path, "--hf") == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["web_corpus"]


def test_preprocess_of_a_missing_folder_exits_3_and_of_an_ambiguous_one_2(raw, tmp_path, capsys):
    assert preprocess(tmp_path / "nothing", tmp_path) == 3
    assert "does not exist (fix: put text into it, or give --input DIR)" in capsys.readouterr().err
    (raw / "loose.txt").write_text(LINES)
    assert preprocess(raw, tmp_path) == 2
    assert "has text beside folders of corpora" in capsys.readouterr().err
    assert preprocess(raw, tmp_path, "--mixed") == 0


def test_preprocess_can_keep_short_lines_spaces_and_control_characters(raw, tmp_path):
    assert preprocess(raw / "hbs", tmp_path, "--min-line-bytes", "0", "--keep-spaces", "--keep-control") == 0
    assert "short" in documents(tmp_path / "out" / "hbs_corpus")[0]
