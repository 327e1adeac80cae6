import json
import logging
import random
import subprocess
import sys
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from candlewick.errors import ConfigError, TokenizerError
from candlewick.tokenizer import train
from candlewick.tokenizer.patterns import PATTERNS
from candlewick.tokenizer.train import MAX_RUN_CHARS, TrainingText, split_text, train_tokenizer


def test_training_on_equal_texts_gives_equal_bytes(texts, tokenizer):
    again, _ = train_tokenizer(iter(texts), vocab_size=350)
    assert again.json_bytes == tokenizer.json_bytes
    code = (
        "import sys, json\nfrom candlewick.tokenizer.train import train_tokenizer\n"
        "print(train_tokenizer(json.load(sys.stdin), vocab_size=350)[0].sha256)"
    )
    other = subprocess.run(
        [sys.executable, "-c", code], input=json.dumps(texts), capture_output=True, text=True, check=True
    )
    assert other.stdout.strip() == tokenizer.sha256


def test_merges_equal_those_of_a_plain_trainer():
    """The definition of BPE in a few lines: the most frequent pair first, ties by the lower ids."""
    texts = ["low lower lowest new newer newest wide wider widest " * 7, "the theme then them " * 3]
    found, _ = train_tokenizer(texts, vocab_size=280)
    merges = json.loads(found.json_bytes)["model"]["merges"]
    ids = json.loads(found.json_bytes)["model"]["vocab"]
    words: dict[tuple[str, ...], int] = {}
    for text in texts:
        for word in text.replace(" ", " \u0120").split(" "):
            if word:
                words[tuple(word)] = words.get(tuple(word), 0) + 1
    for left, right in merges:
        counts: dict[tuple[str, str], int] = {}
        for word, count in words.items():
            for pair in pairwise(word):
                counts[pair] = counts.get(pair, 0) + count
        best = min(counts, key=lambda pair: (-counts[pair], ids[pair[0]], ids[pair[1]]))
        assert (left, right) == best
        merged: dict[tuple[str, ...], int] = {}
        for word, count in words.items():
            new: list[str] = []
            for char in word:
                if new and (new[-1], char) == best:
                    new[-1] += char
                else:
                    new.append(char)
            merged[tuple(new)] = merged.get(tuple(new), 0) + count
        words = merged


def test_report_counts_texts_and_bytes_read(texts):
    _, report = train_tokenizer(texts, vocab_size=300)
    assert (report.requested_vocab_size, report.vocab_size, report.too_small) == (300, 300, False)
    assert report.texts == len(texts)
    assert report.bytes == sum(len(text.encode()) for text in texts)
    assert report.seconds > 0


def test_hash_of_the_training_text_covers_texts_and_their_borders():
    def sha(*texts):
        return train_tokenizer(texts, vocab_size=258)[1].corpus_sha256

    assert sha("ab", "c") == sha("ab", "c")
    assert len({sha("ab", "c"), sha("a", "bc"), sha("abc"), sha("c", "ab")}) == 4


def test_a_text_too_small_for_the_vocabulary_is_reported(caplog):
    with caplog.at_level(logging.WARNING, "candlewick"):
        found, report = train_tokenizer(["hello hello"], vocab_size=5000)
    assert report.too_small
    assert report.vocab_size == found.vocab_size < 270
    assert report.requested_vocab_size == 5000
    assert "the text is too small for 5000 tokens" in caplog.text


def test_min_frequency_excludes_rare_pairs():
    often = ["ab " * 10, "cd "]
    assert train_tokenizer(often, vocab_size=300, min_frequency=1)[0].vocab_size == 258 + 3
    assert train_tokenizer(often, vocab_size=300, min_frequency=2)[0].vocab_size == 258 + 2


@pytest.mark.parametrize("texts", [[], ["", ""]])
def test_training_without_text_is_refused(texts):
    with pytest.raises(TokenizerError, match="there is no text to train a tokenizer on"):
        train_tokenizer(texts, vocab_size=300)


@pytest.mark.parametrize(
    ("sizes", "said"),
    [
        ({"vocab_size": 257}, "vocab_size=257 is too small: 256 bytes and 2 special tokens"),
        ({"vocab_size": 300, "max_train_bytes": 1 << 31}, "pairs are counted in 32 bits"),
        ({"vocab_size": 300, "max_train_bytes": 0}, "is not in 1 to 2147483647"),
    ],
)
def test_impossible_vocabulary_sizes_are_refused(sizes, said):
    with pytest.raises(ConfigError, match=said):
        train_tokenizer(["text"], **sizes)


def test_training_refuses_half_a_surrogate_pair():
    for read in (lambda texts: train_tokenizer(texts, vocab_size=300), lambda texts: take(texts, 100)):
        with pytest.raises(TokenizerError, match=r"half a surrogate pair \(U\+DC00\) at character 1"):
            read(["fine", "a\udc00"])


def test_error_of_the_source_reaches_the_caller():
    class Broken(RuntimeError):
        pass

    def source():
        yield "some text"
        raise Broken("the disk is gone")

    with pytest.raises(Broken, match="the disk is gone"):
        train_tokenizer(source(), vocab_size=300)


def take(texts, limit, total=None, progress=None) -> tuple[list[str], TrainingText]:
    reader = TrainingText(limit, total, progress)
    return list(reader.read(texts)), reader


@settings(deadline=None)
@given(st.lists(st.text(st.characters(codec="utf-8"), max_size=20), max_size=20), st.integers(1, 200))
def test_training_text_reads_no_more_than_the_limit(texts, limit):
    taken, reader = take(texts, limit)
    whole = "".join(texts)
    assert whole.startswith("".join(taken))
    assert reader.bytes == len("".join(taken).encode()) <= limit
    assert reader.bytes > limit - 4 or "".join(taken) == whole


def test_training_text_stops_reading_at_the_limit():
    read = []
    texts = (read.append(number) or "日本語 text " * 5 for number in range(100))
    _, report = train_tokenizer(texts, vocab_size=258, max_train_bytes=1000)
    assert 996 < report.bytes <= 1000
    assert len(read) == report.texts == 14


def test_training_text_takes_a_larger_corpus_evenly():
    texts = [f"text number {number:04}" for number in range(1000)]
    total = sum(map(len, texts))
    taken, reader = take(texts, total // 10, total)
    assert taken == texts[::10]
    assert (reader.texts, reader.bytes) == (991, total // 10)
    assert take(texts, total, total)[0] == texts
    assert take(texts, 2 * total, total)[0] == texts


@settings(deadline=None)
@given(st.lists(st.integers(0, 400), min_size=1, max_size=200), st.integers(100, 2000))
def test_training_text_has_taken_the_same_share_at_any_position(sizes, limit):
    texts = ["x" * size for size in sizes]
    total = sum(sizes)
    seen = taken = 0
    reader = TrainingText(limit, total, None)

    def source():
        nonlocal seen
        for text in texts:
            yield text
            seen += len(text)
            assert abs(taken - min(1, limit / max(total, 1)) * seen) <= 400

    for piece in reader.read(source()):
        taken += len(piece)


def test_training_text_progress_ends_at_its_total():
    told = []
    texts = ["words and words " * 5000] * 30  # 80 kB each
    take(texts, 2_400_000, progress=told.append)
    assert told == [1_120_000, 2_240_000, 2_400_000]


PARTS = ["word", " ", "\n", " \n", "  ", "日本", "\r\n", "12", "!?", "'s", "\t", "\u3000", "é\u0301"]


@settings(deadline=None)
@given(st.lists(st.sampled_from(PARTS), max_size=60), st.integers(1, 20))
def test_split_text_joins_to_the_text_in_bounded_pieces(parts, limit):
    text = "".join(parts)
    pieces = list(split_text(text, limit))
    assert "".join(pieces) == text
    assert all(0 < len(piece) <= limit for piece in pieces)


@settings(deadline=None)
@given(st.lists(st.sampled_from(PARTS), min_size=60, max_size=120))
def test_split_text_cuts_where_the_pattern_cuts(tokenizer, parts):
    text = "".join(f"{part}x y" for part in parts)  # so that a place to cut is always near
    pieces = list(split_text(text, 40))
    assert len(pieces) > 2
    assert [i for piece in pieces for i in tokenizer.encode(piece)] == tokenizer.encode(text)


@pytest.mark.parametrize("char", ["x", "-", "_", " ", "\n", "é", "日", "\u0301"])
def test_split_text_cuts_a_run_without_boundaries_at_the_limit(char):
    """The trainer's time grows with the square of a pre-token's length."""
    pieces = list(split_text("start " + char * 200_000 + " end"))
    assert "".join(pieces) == "start " + char * 200_000 + " end"
    assert max(map(len, pieces)) <= MAX_RUN_CHARS + 6


def test_training_on_a_text_without_spaces_succeeds():
    choose = random.Random(0)
    _, report = train_tokenizer(["".join(choose.choices("ACGT", k=100_000))], vocab_size=400)
    assert report.vocab_size == 400


def test_pattern_is_that_of_qwen2():
    assert train.PATTERN == "qwen2"
    assert PATTERNS["qwen2"] == (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
        r"|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
