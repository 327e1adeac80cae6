"""`candlewick data shard`: the flags of transformer_candle's sharder and those of Candlewick."""

import gzip
import json

import pytest

from candlewick.artifacts.manifest import read_manifest
from candlewick.cli import data_shard
from candlewick.cli.main import main
from candlewick.data.shards.writer import ShardWriter


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
        assert main(["data", "shard", *given, "--output", str(tmp_path / "out"), *words]) == 0
        folders = (tmp_path / "out" / "train", tmp_path / "out" / "val")
        return [read_manifest(folder, "text").details for folder in folders if folder.exists()]

    return run


def test_shard_modes_smoke_prod_and_split(shard, text, tmp_path, monkeypatch, capsys):
    (train,) = shard()
    assert (train["total_lines"], train["mode"]) == (60, "prod")
    monkeypatch.setattr(data_shard, "_SMOKE_DOCUMENTS", 50)
    train, val = shard("--mode", "smoke")
    assert (train["total_lines"] + val["total_lines"], train["mode"]) == (50, "smoke")
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
    monkeypatch.setattr("candlewick.cli.data_shard.use_hub", lambda **given: used.update(given))
    rows = "".join(json.dumps({"text": f"row {number}"}) + "\n" for number in range(40)).encode()
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
        (
            ["--take", "20001"],
            "--take 20001 is more than the 20000 documents of --mode smoke (fix: give --mode prod",
        ),
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
    assert "run it again to go on" in capsys.readouterr().err
    assert len(list((tmp_path / "out" / "train.partial").glob("train_*.jsonl"))) >= 4
    assert main(words) == 0
    assert len(written) == 30 + 60 - 28  # four shards of seven were finished
    lines = b"".join(path.read_bytes() for path in sorted((tmp_path / "out" / "train").glob("*.jsonl")))
    assert [json.loads(line)["text"] for line in lines.splitlines()] == text.read_text().splitlines()
