import logging
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests import foreign

from candlewick.errors import MachineError, TokenizerError
from candlewick.tokenizer import encoder
from candlewick.tokenizer.bpe import Tokenizer
from candlewick.tokenizer.encoder import FastEncoder, ReferenceEncoder, make_encoder

SPECIAL_CASES = [
    "",
    "<|endoftext|>",
    "a<|padding|><|endoftext|>b",
    "x" * 50_000,
    " " * 50_000,
    "\n" * 50_000,
    "ab" * 30_000,
    "é\u0301" * 5000,
    "\0\x85\u2028\ufeff",
    "",
]


def split(flat, lengths) -> list[list[int]]:
    """The ids of each text."""
    assert flat.dtype == np.uint32
    assert lengths.dtype == np.int64
    assert lengths.sum() == len(flat)
    return [part.tolist() for part in np.split(flat, np.cumsum(lengths)[:-1])] if len(lengths) else []


@pytest.fixture(scope="module", params=[FastEncoder, ReferenceEncoder])
def bulk(request, tokenizer):
    if request.param is FastEncoder:
        pytest.importorskip("fastokens")
    return request.param(tokenizer.json_bytes)


def test_bulk_encoder_gives_the_ids_of_the_tokenizer(bulk, tokenizer, texts, odd_texts):
    samples = [*SPECIAL_CASES, *texts, *odd_texts(2, 3000)]
    assert split(*bulk.encode(samples)) == [tokenizer.encode(text) for text in samples]


@settings(deadline=None)
@given(st.lists(st.text(st.characters(codec="utf-8")), max_size=5))
def test_bulk_encoder_gives_the_ids_of_the_tokenizer_for_any_texts(bulk, tokenizer, samples):
    assert split(*bulk.encode(samples)) == [tokenizer.encode(text) for text in samples]


@pytest.mark.parametrize("nothing", [[], [""], ["", ""]])
def test_bulk_encoder_of_empty_texts_gives_no_ids(bulk, nothing):
    flat, lengths = bulk.encode(nothing)
    assert (len(flat), lengths.tolist()) == (0, [0] * len(nothing))


def test_bulk_encoder_refuses_half_a_surrogate_pair_with_its_text_number(bulk):
    with pytest.raises(TokenizerError, match="text 1 has half a surrogate pair .* at character 2"):
        bulk.encode(["fine", "ab\ud800"])


def test_reference_encoder_batches_many_texts(tokenizer, monkeypatch):
    monkeypatch.setattr(encoder, "_BATCH_CHARS", 10)
    monkeypatch.setattr(encoder, "_BATCH_TEXTS", 3)
    samples = ["", "a", "b c", "d" * 30, "", "e", "f", "g", "h", "i"]
    found = ReferenceEncoder(tokenizer.json_bytes).encode(samples)
    assert split(*found) == [tokenizer.encode(text) for text in samples]


def test_make_encoder_prefers_fastokens(tokenizer):
    pytest.importorskip("fastokens")
    assert make_encoder(tokenizer.json_bytes).name == "fastokens"


def test_missing_fastokens_raises_when_required_and_warns_otherwise(tokenizer, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "fastokens", None)
    with pytest.raises(MachineError, match="fastokens is not installed .*pip install 'candlewick"):
        FastEncoder(tokenizer.json_bytes)
    with caplog.at_level(logging.WARNING, "candlewick"):
        assert make_encoder(tokenizer.json_bytes).name == "tokenizers"
    assert "encoding with the reference" in caplog.text


def test_fastokens_that_cannot_read_a_tokenizer_raises(tokenizer, monkeypatch):
    def refuse(content):
        raise ValueError("unsupported pattern")

    fake = SimpleNamespace(Tokenizer=SimpleNamespace(from_json_str=refuse))
    monkeypatch.setitem(sys.modules, "fastokens", fake)
    with pytest.raises(MachineError, match="fastokens cannot use this tokenizer: unsupported pattern"):
        FastEncoder(tokenizer.json_bytes)


@pytest.mark.parametrize("kind", foreign.KINDS)
def test_make_encoder_gives_the_ids_of_the_library_for_every_tokenizer(kind, tmp_path, odd_texts):
    foreign.write(kind, tmp_path)
    found = Tokenizer.load(tmp_path)
    samples = [*odd_texts(5, 2000), *foreign.texts(3, 5), "<think> <s></s> <bos><|im_start|>\n"]
    bulk = make_encoder(found.encoder_json)
    assert bulk.name == ("tokenizers" if kind.startswith("llama2") else "fastokens")
    assert split(*bulk.encode(samples)) == [found.encode(text) for text in samples]


def test_make_encoder_rejects_fastokens_with_other_ids(tokenizer, monkeypatch, caplog):
    real = ReferenceEncoder(tokenizer.json_bytes)
    monkeypatch.setattr(FastEncoder, "encode", lambda self, texts: real.encode([text.strip() for text in texts]))
    assert make_encoder(tokenizer.json_bytes).name == "tokenizers"
    assert "fastokens gives other ids with this tokenizer" in caplog.text
