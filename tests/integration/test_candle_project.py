"""The repository of transformer_candle, used as it lies there: its run folders, tokenizers and configurations."""

import json
import shutil

import pytest
from tests.candle_project import write_tokenizer
from tests.conftest import make_text

from candlewick.tokenizer.bpe import Tokenizer

WORDS = ("orchestrate", "--override", "runtime.sample=null", "--override", "runtime.device=cpu")
TINY = (
    *("--hidden-size", "32", "--intermediate-size", "64", "--layers", "1", "--heads", "2", "--seq-len", "32"),
    *(
        "--batch-size",
        "4",
        "--steps",
        "2",
        "--vocab-size",
        "300",
        "--checkpoint-every",
        "2",
        "--loader-workers",
        "1",
    ),
)


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "input.txt"
    path.write_text(make_text(3, 3000))
    return path


@pytest.fixture
def orchestrated(tmp_path, text, monkeypatch, run_candlewick):
    """Orchestrate in one of the modes with the run folder `tmp_path/run`; return what is printed."""
    for name in ("RUNS", "CACHE", "TOKENIZER", "TRAIN", "VAL", "HF_CACHE"):
        monkeypatch.setenv(f"ORCHESTRATE_{name}_ROOT", str(tmp_path / name))
    for name in ("HF_HOME", "HF_HUB_CACHE"):
        monkeypatch.setenv(name, str(tmp_path / "hub"))
    monkeypatch.chdir(tmp_path)

    def run(mode, *words):
        shutil.rmtree(tmp_path / "TRAIN", ignore_errors=True)
        shutil.rmtree(tmp_path / "VAL", ignore_errors=True)
        places = ("--mode", mode, "--experiment", "e", "--run-dir", str(tmp_path / "run"))
        return run_candlewick(*WORDS, *TINY, *places, "--input", text, *words)

    return run


@pytest.mark.parametrize("mode", ["local", "cloud"])
@pytest.mark.parametrize(
    ("manifest", "split"),
    [("library", False), ("orchestrator", False), (None, False), ("library", True), (None, True)],
)
def test_tokenizer_of_transformer_candle_is_reused(orchestrated, text, tmp_path, mode, manifest, split):
    folder = write_tokenizer(tmp_path / "run" / "tokenizer", text.read_text(), manifest, split=split)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    for words in (("--skip-tokenizer",), ()):
        shown = orchestrated(mode, *words).out
        assert f"tokenizer  reused, up to date: {folder}" in shown
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    dataset = Tokenizer.load(tmp_path / "run" / "tokens" / "tokenizer")
    assert dataset.sha256 == Tokenizer.load(folder).sha256


@pytest.mark.parametrize("mode", ["local", "cloud"])
@pytest.mark.parametrize("manifest", ["library", "orchestrator", None])
def test_tokenizer_of_transformer_candle_is_retrained_on_request(orchestrated, text, tmp_path, mode, manifest):
    folder = write_tokenizer(tmp_path / "run" / "tokenizer", text.read_text(), manifest)
    shown = orchestrated(mode, "--force-retrain-tokenizer").out
    place = folder if mode == "local" else tmp_path / "TOKENIZER" / "e"
    assert f"tokenizer  made: {place}" in shown
    assert json.loads((folder / "manifest.json").read_bytes())["kind"] == "tokenizer"
    assert not Tokenizer.load(folder).missing_bytes


def test_folder_with_other_files_is_not_removed_for_a_new_tokenizer(orchestrated, text, tmp_path, run_candlewick):
    folder = write_tokenizer(tmp_path / "run" / "tokenizer", text.read_text())
    (folder / "notes.md").write_text("mine")
    words = (*WORDS, *TINY, "--run-dir", tmp_path / "run", "--input", text, "--force-retrain-tokenizer")
    assert "is a folder of something else" in run_candlewick(*words, code=3).err
    assert (folder / "notes.md").is_file()


@pytest.mark.parametrize("manifest", ["library", "orchestrator"])
def test_shared_tokenizer_of_transformer_candle_is_copied_into_the_run(orchestrated, text, tmp_path, manifest):
    shared = write_tokenizer(tmp_path / "TOKENIZER" / "e", text.read_text(), manifest)
    assert f"tokenizer  reused, up to date: {shared}" in orchestrated("cloud", "--skip-tokenizer").out
    assert Tokenizer.load(tmp_path / "run" / "tokenizer").sha256 == Tokenizer.load(shared).sha256
