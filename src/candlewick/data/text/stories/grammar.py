"""The grammar of the stories: rules of text with slots, and lists of words, read from plots.txt and words.txt.

A choice among n alternatives reads k - 1 or k bits, k = ceil(log2 n), by the truncated binary code: the first
2^k - n alternatives have the shorter codes. So each probability is a power of two, and -log2 p a whole number.
"""

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import NamedTuple, Union

_SLOT = re.compile(r"\{(\^?)(a )?(\w+)\}")


@dataclass(frozen=True, slots=True)
class Word:
    """A slot for a word of a list, in one form. A fact that was chosen before in the story is said again."""

    texts: tuple[str, ...]  # of each choice
    fact: str | None  # under which the choice is kept
    key_length: int
    by_key: Mapping[str, tuple[int, ...]]  # the choices whose texts begin with a key


@dataclass(frozen=True, slots=True, eq=False)
class Rule:
    """The ways to write a part of a story."""

    name: str
    ways: list[tuple["Item", ...]] = field(default_factory=list[tuple["Item", ...]])


Item = Union[str, Word, Rule]  # noqa: UP007 - of a name that is not defined yet


@dataclass(frozen=True)
class Grammar:
    """The rules by name, and the SHA-256 of the files that they were read from."""

    rules: Mapping[str, Rule]
    sha256: str

    @property
    def story(self) -> Rule:
        """The rule that a story begins with."""
        return self.rules["Story"]


def code_length(count: int, choice: int) -> int:
    """Return the bits that a choice among `count` reads: -log2 of its probability."""
    longest = (count - 1).bit_length()
    return longest - (choice < (1 << longest) - count)


@cache
def load_grammar() -> Grammar:
    """Read the grammar."""
    words, plots = (
        (files("candlewick.data.text.stories") / name).read_text("utf-8") for name in ("words.txt", "plots.txt")
    )
    forms = {name: form for block in _blocks(words) for name, form in _read_list(block)}
    rules = {head: Rule(head) for head, *_ in _blocks(plots)}
    slots: dict[str, Word] = {}
    for head, *lines in _blocks(plots):
        rules[head].ways.extend(tuple(_read_items(line, rules, forms, slots)) for line in lines)
    return Grammar(rules, hashlib.sha256((words + plots).encode()).hexdigest())


class _Form(NamedTuple):
    fact: str | None
    texts: tuple[str, ...]


def _blocks(text: str) -> list[list[str]]:
    """Return the lines of each block; empty lines are between blocks, and # begins a comment."""
    blocks = [[line for line in block.split("\n") if line and line[0] != "#"] for block in text.split("\n\n")]
    return [block for block in blocks if block]


def _read_list(block: list[str]) -> Iterator[tuple[str, _Form]]:
    """Yield the name and the texts of each form of a list of words."""
    head, *lines = block
    names = head.removeprefix("*").split()
    choices: list[list[str]] = []
    for line in lines:
        others, _, first = line.partition(":")
        choices += [[word, *others.split()] for word in first.split()]
    for name, texts in zip(names, zip(*choices, strict=True), strict=True):
        yield name, _Form(names[0] if head[0] == "*" else None, tuple(text.replace("_", " ") for text in texts))


def _read_items(
    line: str, rules: Mapping[str, Rule], forms: Mapping[str, _Form], slots: dict[str, Word]
) -> Iterator[Item]:
    """Yield the items of a way: text, rules and words, with a space after a rule unless it is the last."""
    end = 0
    for match in _SLOT.finditer(line):
        if literal := line[end : match.start()]:
            yield literal
        end, name = match.end(), match[3]
        yield rules[name] if name in rules else slots.setdefault(match[0], _make_word(forms[name], match))
    if literal := line[end:]:
        yield literal


def _make_word(form: _Form, match: re.Match[str]) -> Word:
    texts = form.texts
    if match[2]:
        texts = tuple(f"{'an' if text[0] in 'aeiou' else 'a'} {text}" for text in texts)
    if match[1]:
        texts = tuple(text[0].upper() + text[1:] for text in texts)
    length = min(5, *map(len, texts))
    by_key: dict[str, tuple[int, ...]] = {}
    for choice, text in enumerate(texts):
        by_key[text[:length]] = (*by_key.get(text[:length], ()), choice)
    return Word(texts, form.fact, length, by_key)
