"""A small tokenizer, trained once on words, code-like lines and some other scripts."""

import json
import random

import pytest

from candlewick.tokenizer.train import train_tokenizer

SENTENCE = (
    "the of and def return self import token naïve Straße été 日本語 слово 12 345 x_y == // it's we'll "
    "transformer attention embedding gradient"
)


def make_texts(seed: int, count: int = 200) -> list[str]:
    choose = random.Random(seed)
    words = SENTENCE.split()
    return [
        "".join(choose.choice(words) + choose.choice([" ", " ", "\n", "  ", ", ", "\r\n"]) for _ in range(60))
        for _ in range(count)
    ]


@pytest.fixture(scope="session")
def texts():
    return make_texts(0)


@pytest.fixture(scope="session")
def tokenizer(texts):
    return train_tokenizer(texts, vocab_size=350)[0]


@pytest.fixture(scope="session")
def odd_texts():
    """A function (seed, count) -> random strings that tokenizers disagree about."""
    return make_odd_texts


def make_odd_texts(seed: int, count: int) -> list[str]:
    """Marks, scripts, emoji, controls, runs, half words."""
    choose = random.Random(seed)
    alphabets = [
        "abc ABC 012 '\u2019.,!?-_/\\<>|[]{}()\"#@&*^%$~`;:=+",
        " \t\n\r\v\f\x1c\x85\xa0\u2003\u2028\u3000\ufeff",
        "e\u0301o\u0308n\u0303é\u200d\u0300\u0591",
        "日本語中文한국어ไทยहिन्दीعربىעברית",
        "😀👩‍👩‍👧🇩🇪👍🏽\ufe0f",
        "\0\x01\x07\x1b\x7f\x80\x9f\ufffd\uffff\U0010ffff",
        "\u017fK\u0130\u0131ßẞǅﬁ½²Ⅷ\u0663",
    ]
    out = []
    for _ in range(count):
        mixed = "".join(choose.sample(alphabets, choose.randint(1, 3)))
        text = "".join(choose.choice(mixed) for _ in range(choose.randrange(24)))
        out.append(text * choose.choice([1, 1, 1, 3]))
    return out


@pytest.fixture
def tree(tokenizer) -> dict:
    """The content of a tokenizer.json, to be changed."""
    return json.loads(tokenizer.json_bytes)
