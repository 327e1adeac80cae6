import random

import pytest
from tests import foreign
from tokenizers import Tokenizer as RustTokenizer
from tokenizers import models

from candlewick.artifacts.build import Recipe
from candlewick.artifacts.manifest import read_manifest, verify
from candlewick.errors import ArtifactError, TokenizerError
from candlewick.tokenizer.artifact import measure, write_artifact
from candlewick.tokenizer.bpe import Tokenizer
from candlewick.tokenizer.train import train_tokenizer


@pytest.fixture(scope="module")
def trained(texts):
    return train_tokenizer(texts[1:], vocab_size=320)


def write(trained, output, heldout, **changes):
    recipe = Recipe("tokenizer", {"corpus": "0" * 64}, {"vocab_size": 320, **changes})
    tokenizer, report = trained
    return write_artifact(tokenizer, report, heldout, output, recipe)


def test_artifact_holds_the_tokenizer_and_its_report(trained, texts, tmp_path):
    manifest = write(trained, tmp_path / "tok", texts[:1])
    assert read_manifest(tmp_path / "tok", "tokenizer", 1) == manifest
    verify(tmp_path / "tok", manifest)
    assert Tokenizer.load(tmp_path / "tok").sha256 == trained[0].sha256
    hashes = {entry.name: entry.sha256 for entry in manifest.files}
    assert hashes["tokenizer.json"] == trained[0].sha256
    details = manifest.details
    assert details["vocab_size"] == details["requested_vocab_size"] == 320
    assert details["too_small"] is False
    assert (details["delimiter_id"], details["padding_id"], details["pattern"]) == (0, 1, "qwen2")
    assert details["bytes"] == trained[1].bytes
    assert details["corpus_sha256"] == trained[1].corpus_sha256
    wanted = measure(trained[0], texts[:1])
    assert details["heldout"] == wanted


def test_artifact_id_excludes_time_and_versions(trained, texts, tmp_path):
    manifest = write(trained, tmp_path / "tok", texts[:1])
    assert manifest.provenance.keys() == {"tool", "encoder", "seconds", "time", "platform", "python"}
    assert "seconds" not in manifest.details
    assert write(trained, tmp_path / "again", texts[:1]).id == manifest.id
    assert write(trained, tmp_path / "other", texts[:1], vocab_size=321).id != manifest.id


def test_artifact_without_held_out_text_has_no_figures(trained, tmp_path):
    heldout = write(trained, tmp_path / "tok", []).details["heldout"]
    assert (heldout["texts"], heldout["bytes_per_token"], heldout["tokens_per_text"]) == (0, None, None)


def test_lossy_tokenizer_is_not_written_as_artifact(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(trained[0], "decode", lambda ids: "")
    with pytest.raises(TokenizerError, match="1 of 2 texts do not survive the tokenizer"):
        write(trained, tmp_path / "tok", ["a", ""])
    assert not list(tmp_path.iterdir())


def test_a_folder_of_something_else_is_not_replaced(trained, tmp_path):
    (tmp_path / "tok").mkdir()
    (tmp_path / "tok" / "mine").write_text("x")
    with pytest.raises(ArtifactError, match="so it is not replaced by"):
        write(trained, tmp_path / "tok", [])
    assert [path.name for path in tmp_path.iterdir()] == ["tok"]


def test_vocab_and_merges_files_of_the_artifact_give_the_same_ids(trained, texts, tmp_path):
    manifest = write(trained, tmp_path / "tok", [])
    assert {"vocab.json", "merges.txt"} < {entry.name for entry in manifest.files}
    model = models.BPE.from_file(str(tmp_path / "tok" / "vocab.json"), str(tmp_path / "tok" / "merges.txt"))
    rust = RustTokenizer.from_file(str(tmp_path / "tok" / "tokenizer.json"))
    rust.model = model
    assert all(rust.encode(text).ids == trained[0].encode(text) for text in texts[:20])


def test_measure_counts_texts_bytes_and_tokens(tokenizer):
    texts = ["the of and", "", "naïve"]
    ids = [tokenizer.encode(text) for text in texts]
    tokens = sum(map(len, ids))
    found = measure(tokenizer, texts)
    assert (found["texts"], found["bytes"], found["tokens"]) == (3, 10 + 6, tokens)
    assert found["bytes_per_token"] == round(16 / tokens, 4)
    assert found["tokens_per_text"] == round(tokens / 3, 2)
    assert found["coverage"] == round(len({i for text in ids for i in text}) / 350, 4)
    assert found["changed_texts"] == 0


def test_bytes_per_token_grows_with_longer_tokens(tokenizer):
    good, bad = (measure(tokenizer, [text])["bytes_per_token"] for text in ("the return token", "qzx jkv"))
    assert good is not None
    assert bad is not None
    assert good > bad


@pytest.mark.parametrize("nothing", [[], [""]])
def test_measure_of_empty_text_has_null_ratios(tokenizer, nothing):
    found = measure(tokenizer, nothing)
    assert (found["bytes_per_token"], found["coverage"]) == (None, 0)
    assert found["tokens_per_text"] == (0 if nothing else None)


def test_measure_counts_texts_that_change(tokenizer, monkeypatch):
    monkeypatch.setattr(tokenizer, "decode", lambda ids: "other")
    assert measure(tokenizer, ["a", "other"])["changed_texts"] == 1


def test_measure_refuses_half_a_surrogate_pair(tokenizer):
    with pytest.raises(TokenizerError, match="half a surrogate pair"):
        measure(tokenizer, ["\ud800"])


def test_measure_counts_texts_that_a_lossy_tokenizer_changes(tmp_path):
    foreign.write("candle", tmp_path)
    found = measure(Tokenizer.load(tmp_path), [" the of", " the \u65e5", "the"])
    assert (found["texts"], found["changed_texts"]) == (3, 2)


def test_tokenizer_folder_with_a_flipped_bit_is_refused_or_is_the_same_tokenizer(trained, tmp_path, texts):
    """400 flips, one at a time, in every file of the folder."""
    write(trained, tmp_path / "t", texts)
    files, choose = sorted((tmp_path / "t").iterdir()), random.Random(5)
    expected, refused = Tokenizer.load(tmp_path / "t"), 0
    for number in range(400):
        path = files[number % len(files)]
        good = path.read_bytes()
        content = bytearray(good)
        content[choose.randrange(len(good))] ^= 1 << choose.randrange(8)
        path.write_bytes(content)
        try:
            found = Tokenizer.load(tmp_path / "t")
            assert (found.json_bytes, found.roles) == (expected.json_bytes, expected.roles)
        except TokenizerError:
            refused += 1
        path.write_bytes(good)
    assert refused >= 2 * (400 // len(files))  # those of tokenizer.json and of tokenizer_config.json


def test_tokenizer_that_was_edited_is_refused_with_the_fix(trained, tmp_path, texts):
    write(trained, tmp_path / "t", texts)
    path = tmp_path / "t" / "tokenizer_config.json"
    path.write_text(path.read_text().replace("{", "{ ", 1))
    with pytest.raises(TokenizerError, match=r"tokenizer_config\.json was changed: its manifest\.json"):
        Tokenizer.load(tmp_path / "t")
    (tmp_path / "t" / "manifest.json").unlink()
    Tokenizer.load(tmp_path / "t")
