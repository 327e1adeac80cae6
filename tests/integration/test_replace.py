"""A folder that a verb wrote is not replaced by something else, unless that is asked for."""

import json

import pytest


@pytest.fixture
def texts(tmp_path, text_dir):
    for number in range(2):
        (tmp_path / f"{number}.txt").write_bytes((text_dir / f"{number:02}.txt").read_bytes())
    return [str(tmp_path / f"{number}.txt") for number in range(2)]


@pytest.mark.parametrize("verb", ["tokenizer train", "data prepare", "data shard"])
def test_other_text_replaces_a_folder_only_on_request(verb, texts, run_candlewick, tokenizer_folder, tmp_path):
    folder = tmp_path / "out"
    words = {
        "tokenizer train": lambda text: [text, "--override", "tokenizer.vocab_size=300"],
        "data prepare": lambda text: [text, "--tokenizer", str(tokenizer_folder)],
        "data shard": lambda text: ["--source", text],
    }[verb]

    def run(text: str, *more: str, code: int = 0):
        return run_candlewick(*verb.split(), *words(text), "--output", str(folder), *more, code=code)

    run(texts[0])
    (first, *_) = sorted(folder.rglob("manifest.json"))
    before = json.loads(first.read_bytes())["inputs"]
    run(texts[0])  # up to date
    refused = run(texts[1], code=3)
    assert "made otherwise: corpus" in refused.err
    assert "add --replace" in refused.err
    assert json.loads(first.read_bytes())["inputs"] == before
    run(texts[1], "--replace")
    assert json.loads(first.read_bytes())["inputs"] != before
