import pytest
from tests import foreign

from candlewick.errors import TokenizerError
from candlewick.tokenizer.bpe import Tokenizer
from candlewick.tokenizer.report import measure


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
