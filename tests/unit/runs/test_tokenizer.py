import json
from pathlib import Path

import pytest

from candlewick.artifacts.manifest import read_manifest
from candlewick.config import DataConfig, TokenizerConfig
from candlewick.data.text.find import open_text
from candlewick.errors import ArtifactError, ConfigError, DataError
from candlewick.runs import tokenizer as tokenizer_stage
from candlewick.runs.tokenizer import make_tokenizer, own_manifest, remove_tokenizer
from candlewick.tokenizer.bpe import Tokenizer
from candlewick.tokenizer.train import train_tokenizer

SETTINGS = TokenizerConfig(vocab_size=300)


@pytest.fixture
def make(text_dir, tmp_path):
    """Make a tokenizer of the shared text at tmp_path/tok, with some things changed."""

    def run(*, uris=None, data=None, settings=SETTINGS, progress=None):
        uris = [str(text_dir)] if uris is None else uris
        text = open_text(uris, data or DataConfig())
        return make_tokenizer(text, settings, tmp_path / "tok", progress=progress)

    return run


def test_a_corpus_becomes_a_tokenizer_artifact(make, text_dir, tmp_path):
    manifest, reused = make()
    assert not reused
    assert read_manifest(tmp_path / "tok", "tokenizer", 1) == manifest
    assert Tokenizer.load(tmp_path / "tok").vocab_size == 300 == manifest.details["vocab_size"]
    size = sum(path.stat().st_size for path in text_dir.iterdir())
    assert manifest.details["bytes"] + manifest.details["heldout"]["bytes"] == size
    assert manifest.config == {
        "pattern": "qwen2",
        "format": "text",
        "documents": "file",
        "field": "text",
        "bad_utf8": "replace",
        "bad_rows": "error",
        "vocab_size": 300,
        "min_frequency": 2,
        "max_train_bytes": 1 << 30,
    }


def test_up_to_date_tokenizer_is_reused(make, monkeypatch):
    first, _ = make()
    monkeypatch.setattr(tokenizer_stage, "train_tokenizer", None)
    again, reused = make()
    assert reused
    assert again == first


@pytest.mark.parametrize(
    "change",
    [
        {"settings": TokenizerConfig(vocab_size=301)},
        {"settings": TokenizerConfig(vocab_size=300, min_frequency=3)},
        {"data": DataConfig(documents="line")},
    ],
)
def test_other_settings_train_another_tokenizer(make, change):
    first, _ = make()
    other, reused = make(**change)
    assert not reused
    assert other.id != first.id


def test_other_text_trains_another_tokenizer_and_another_folder_does_not(make, tmp_path):
    for folder, text in (("a", "some text\n"), ("b", "some text\n"), ("c", "other text\n")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x.txt").write_text(text * 100)
    first, _ = make(uris=[str(tmp_path / "a" / "x.txt")])
    assert make(uris=[str(tmp_path / "b" / "x.txt")]) == (first, True)
    assert make(uris=[str(tmp_path / "c" / "x.txt")])[1] is False


def test_damaged_tokenizer_is_trained_again(make, tmp_path):
    first, _ = make()
    (tmp_path / "tok" / "tokenizer.json").write_text("{}")
    again, reused = make()
    assert not reused
    assert again.id == first.id


def test_tokenizer_training_holds_out_one_piece_in_a_hundred(make, tmp_path, monkeypatch):
    trained = []

    def spy(texts, **settings):
        trained.extend(texts)
        return train_tokenizer(trained, **settings)

    monkeypatch.setattr(tokenizer_stage, "train_tokenizer", spy)
    lines = [f"line {number} of the text {number * 7919 % 1000}" for number in range(1000)]
    (tmp_path / "x.txt").write_text("\n".join(lines))
    manifest, _ = make(uris=[str(tmp_path / "x.txt")], data=DataConfig(documents="line"))
    assert manifest.details["heldout"]["texts"] == 10
    assert manifest.details["texts"] == 990
    assert trained == [line for number, line in enumerate(lines) if number % 100 != 50]
    assert manifest.details["heldout"]["bytes_per_token"] > 1


def test_tokenizer_training_holds_out_text_of_one_long_document(make, tmp_path):
    (tmp_path / "x.txt").write_text("word after word, " * 20_000)
    details = make(uris=[str(tmp_path / "x.txt")])[0].details
    assert 0 < details["heldout"]["bytes"] < 0.02 * details["bytes"]


def test_tokenizer_training_bounds_the_held_out_text(make, monkeypatch):
    monkeypatch.setattr(tokenizer_stage, "_MAX_HELDOUT_BYTES", 300)
    heldout = make()[0].details["heldout"]
    assert heldout["texts"] == 0 or heldout["bytes"] < 3000


def test_tokenizer_training_on_a_tiny_corpus_holds_out_nothing(make, tmp_path):
    (tmp_path / "x.txt").write_text("hello hello hello")
    manifest, _ = make(uris=[str(tmp_path / "x.txt")], settings=TokenizerConfig(vocab_size=1000))
    assert manifest.details["too_small"]
    assert manifest.details["requested_vocab_size"] == 1000 > manifest.details["vocab_size"]
    assert manifest.details["heldout"]["bytes_per_token"] is None


def test_tokenizer_training_progress_ends_at_its_total(make):
    told = []
    make(progress=lambda done, total: told.append((done, total)))
    assert told[-1][0] == told[-1][1] > 0
    assert told == sorted(told)


def test_max_train_bytes_limits_the_training_text(make):
    manifest, _ = make(settings=TokenizerConfig(vocab_size=300, max_train_bytes=50_000))
    assert 40_000 < manifest.details["bytes"] <= 50_000


def test_configured_tokenizer_json_cannot_be_trained(make):
    with pytest.raises(ConfigError, match="tokenizer_json=t.json is a finished tokenizer .*to null to train one"):
        make(settings=TokenizerConfig(tokenizer_json=Path("t.json")))


def test_missing_text_is_refused_before_anything_is_written(make, tmp_path):
    with pytest.raises(DataError, match="nowhere"):
        make(uris=[str(tmp_path / "nowhere.txt")])
    assert not (tmp_path / "tok").exists()


def test_folder_of_something_else_is_refused_before_training(make, tmp_path, monkeypatch):
    (tmp_path / "tok").mkdir()
    (tmp_path / "tok" / "mine").write_text("x")
    monkeypatch.setattr(tokenizer_stage, "train_tokenizer", None)
    with pytest.raises(ArtifactError, match="is not replaced by the new tokenizer"):
        make()


def test_equal_text_gives_an_equal_tokenizer_artifact(make, tmp_path):
    first, _ = make()
    content = json.loads((tmp_path / "tok" / "manifest.json").read_text())
    for path in (tmp_path / "tok").iterdir():
        path.unlink()
    again, reused = make()
    assert not reused
    assert again.id == first.id
    assert json.loads((tmp_path / "tok" / "manifest.json").read_text())["files"] == content["files"]


def test_max_train_lines_takes_the_first_documents(make, text_dir):
    whole, _ = make(uris=[str(text_dir / f"{number:02}.txt") for number in range(2)])
    first, _ = make(settings=TokenizerConfig(vocab_size=300, max_train_lines=2))
    for name in ("bytes", "corpus_sha256", "heldout"):
        assert first.details[name] == whole.details[name]
    assert first.config == whole.config | {"max_train_lines": 2}
    one, _ = make(settings=TokenizerConfig(vocab_size=300, max_train_lines=7), data=DataConfig(documents="line"))
    lines = "".join((text_dir / "00.txt").read_text().splitlines()[:7])
    assert one.details["bytes"] == len(lines)


def test_configured_vocab_and_merges_cannot_be_trained(make):
    settings = TokenizerConfig(vocab=Path("v.json"), merges=Path("m.txt"))
    with pytest.raises(ConfigError, match="vocab=v.json is a finished tokenizer .*to null to train one"):
        make(settings=settings)


def test_manifest_of_another_program_is_none_and_a_damaged_one_is_an_error(tmp_path):
    assert own_manifest(tmp_path) is None
    for content in ('{"cfg_hash": "1", "token_count": 3}', '{"kind": "checkpoint"}'):
        (tmp_path / "manifest.json").write_text(content)
        assert own_manifest(tmp_path) is None
    for content in ("{", "[]", "{}", '{"kind": "tokenizer"}'):
        (tmp_path / "manifest.json").write_text(content)
        with pytest.raises(ArtifactError):
            own_manifest(tmp_path)


def test_only_a_folder_of_tokenizer_files_is_removed(tmp_path):
    folder = tmp_path / "tokenizer"
    remove_tokenizer(folder)
    folder.mkdir()
    for name in ("tokenizer.json", "manifest.json", "mine.md"):
        (folder / name).write_text("{}" if name != "manifest.json" else '{"cfg_hash": "1"}')
    with pytest.raises(ArtifactError, match="folder of something else"):
        remove_tokenizer(folder)
    (folder / "mine.md").unlink()
    remove_tokenizer(folder)
    assert not folder.exists()
