"""How good the stories are that a model of stories:// writes: known words, sentences, contradictions, copies.

    python benchmarks/stories.py runs/demo

200 samples of the run's last checkpoint (temperature 0.8, no prompt, seeds 0 to 199), each up to its end or to the
end of the context, and then cut behind its last whole sentence. A word is known if the grammar has it. A sentence
parses if one of the grammar's sentences is like it, whatever holds in the story. A story is free of contradictions
if the grammar writes all of it, or goes on behind it. It is a copy if it is a story of the training text.
"""

import argparse
import itertools
import json
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch

from candlewick.checkpoint.load import load_for_inference
from candlewick.config import SampleConfig
from candlewick.data.text.stories.generate import write_story
from candlewick.data.text.stories.grammar import Item, Rule, load_grammar
from candlewick.data.text.stories.parse import derivations
from candlewick.generate.engine import sample_text

WORD = re.compile(r"[A-Za-z]+(?:-[A-Za-z]+)*")
SENTENCE_END = re.compile(r'[.!?]"?(?= [A-Z"]|$)')


@cache
def known_words() -> frozenset[str]:
    """Return the words of the grammar, in small letters."""
    items = [item for rule in load_grammar().rules.values() for way in rule.ways for item in way]
    texts = [[item] if isinstance(item, str) else item.texts for item in items if not isinstance(item, Rule)]
    return frozenset(word.lower() for text in itertools.chain(*texts) for word in WORD.findall(text))


def _plans(item: Item) -> list[list[Item]]:
    """Return the sequences of rules of sentences, and of the spaces between them, that a rule stands for."""
    if not isinstance(item, Rule) or not any(isinstance(part, Rule) for way in item.ways for part in way):
        return [[item]]
    return [list(itertools.chain(*parts)) for way in item.ways for parts in itertools.product(*map(_plans, way))]


@cache
def _beginnings() -> Rule:
    """Return a rule for every story and every beginning of one that ends with a sentence."""
    plans = _plans(load_grammar().story)
    ways = {tuple(map(id, plan[:size])): tuple(plan[:size]) for plan in plans for size in range(1, len(plan) + 1)}
    return Rule("beginning", list(ways.values()))


@cache
def _sentences() -> Rule:
    """Return a rule for the sentences of all stories."""
    parts = {id(part): part for plan in _plans(load_grammar().story) for part in plan if isinstance(part, Rule)}
    return Rule("sentence", [(part,) for part in parts.values()])


def whole_sentences(text: str) -> str:
    """Return the text up to the end of its last whole sentence."""
    ends = [match.end() for match in SENTENCE_END.finditer(text)]
    return text[: ends[-1]] if ends else ""


def split_sentences(text: str) -> list[str]:
    """Return the sentences of a text."""
    ends = [0, *(match.end() for match in SENTENCE_END.finditer(text))]
    return [text[start:stop].strip() for start, stop in itertools.pairwise(ends)]


def is_consistent(text: str) -> bool:
    """Return whether a story begins with the text."""
    return any(derivations(text, _beginnings()))


def score(texts: Sequence[str], training: frozenset[str]) -> dict[str, float]:
    """Return the shares of known words, sentences that parse, stories without contradiction, and copies."""
    texts = [whole_sentences(text) for text in texts]
    words = [word.lower() for text in texts for word in WORD.findall(text)]
    sentences = [any(derivations(part, _sentences())) for text in texts for part in split_sentences(text)]
    return {
        "known_words": sum(word in known_words() for word in words) / max(1, len(words)),
        "sentences": sum(sentences) / max(1, len(sentences)),
        "consistent": sum(map(is_consistent, texts)) / len(texts),
        "copies": sum(text in training for text in texts) / len(texts),
    }


def measure(run: Path, count: int, training: frozenset[str]) -> tuple[dict[str, Any], list[str]]:
    """Sample `count` texts and score them."""
    model, tokenizer = load_for_inference(run, torch.device("cpu"))
    settings = SampleConfig(max_new_tokens=200, temperature=0.8)
    texts = [sample_text(model, tokenizer, "", settings, seed=seed) for seed in range(count)]
    return {"samples": count, **score(texts, training)}, texts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--samples", type=int, default=200)
    parser.add_argument("--stories", type=int, default=20_000, help="of the training text, of seed 0")
    parser.add_argument("--show", action="store_true", help="print the samples too")
    args = parser.parse_args()
    training = frozenset(write_story(0, number) for number in range(args.stories))
    result, texts = measure(args.run, args.samples, training)
    print(json.dumps(result, indent=1))
    if args.show:
        print(*texts, sep=f"\n{'-' * 40}\n")


if __name__ == "__main__":
    main()
