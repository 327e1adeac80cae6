import pytest

from candlewick.errors import TokenizerError
from candlewick.tokenizer.report import measure


def test_counts_are_those_of_the_texts(tokenizer):
    texts = ["the of and", "", "naïve"]
    ids = [tokenizer.encode(text) for text in texts]
    report = measure(tokenizer, texts)
    assert (report.texts, report.bytes, report.tokens) == (3, 10 + 6, sum(map(len, ids)))
    assert report.bytes_per_token == 16 / report.tokens
    assert report.tokens_per_text == report.tokens / 3
    assert report.used_tokens == len({i for text in ids for i in text})
    assert report.coverage == report.used_tokens / 350
    assert report.lossless


def test_longer_tokens_are_worth_more(tokenizer):
    assert (
        measure(tokenizer, ["the return token"]).bytes_per_token > measure(tokenizer, ["qzx jkv"]).bytes_per_token
    )


@pytest.mark.parametrize("nothing", [[], [""]])
def test_nothing_to_divide_by_is_zero(tokenizer, nothing):
    report = measure(tokenizer, nothing)
    assert (report.bytes_per_token, report.tokens_per_text, report.coverage) == (0, 0, 0)


def test_a_text_that_changes_is_counted(tokenizer, monkeypatch):
    monkeypatch.setattr(tokenizer, "decode", lambda ids: "other")
    report = measure(tokenizer, ["a", "other"])
    assert (report.changed_texts, report.lossless) == (1, False)


def test_half_a_surrogate_pair_is_refused(tokenizer):
    with pytest.raises(TokenizerError, match="half a surrogate pair"):
        measure(tokenizer, ["\ud800"])
