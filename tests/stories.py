"""The grammar of the stories as a model: its exact probability of each next byte, and a count of derivations.

python -m tests.stories --count 100000     # each story has exactly one derivation
"""

import argparse
import math
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from candlewick.data.text.stories.generate import write_story
from candlewick.data.text.stories.grammar import Item, Rule, code_length, load_grammar
from candlewick.data.text.stories.parse import derivations, story_bits
from candlewick.tokenizer.bpe import Tokenizer

END = 256
"""What stands for the end of a story among the bytes."""
_IMPOSSIBLE = -1e4  # a logit whose exponential is 0 in float64
Probabilities = NDArray[np.float64]
_Rest = tuple[Item, Any] | None


def total_bits(stories: Sequence[str]) -> float:
    """Return -log2 p of several stories together. Each has to be one."""
    bits = [story_bits(story) for story in stories]
    assert None not in bits
    return sum(filter(None, bits))


@dataclass
class Oracle:
    """All derivations that begin with the bytes so far: (probability, bytes to come, items after them, facts)."""

    hypotheses: list[tuple[float, bytes, _Rest, Mapping[str, int]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._expand(1.0, (load_grammar().story, None), {})

    def probabilities(self) -> dict[int, float]:
        """Return the probability of each byte, or END, that may come next."""
        found: dict[int, float] = defaultdict(float)
        for weight, coming, _, _ in self.hypotheses:
            found[coming[0] if coming else END] += weight
        total = math.fsum(found.values())
        return {byte: weight / total for byte, weight in found.items()}

    def read(self, byte: int) -> None:
        """Go on behind a byte."""
        former = [hypothesis for hypothesis in self.hypotheses if hypothesis[1][:1] == bytes([byte])]
        total = math.fsum(weight for weight, *_ in former)
        self.hypotheses = []
        for weight, coming, rest, facts in former:
            if len(coming) > 1:
                self.hypotheses.append((weight / total, coming[1:], rest, facts))
            else:
                self._expand(weight / total, rest, facts)

    def _expand(self, weight: float, rest: _Rest, facts: Mapping[str, int]) -> None:
        """Follow the choices up to the next bytes."""
        if rest is None:
            self.hypotheses.append((weight, b"", None, facts))
            return
        item, rest = rest
        if isinstance(item, str):
            self.hypotheses.append((weight, item.encode(), rest, facts))
        elif isinstance(item, Rule):
            for choice, way in enumerate(item.ways):
                later = rest
                for part in reversed(way):
                    later = part, later
                self._expand(weight * 2.0 ** -code_length(len(item.ways), choice), later, facts)
        elif item.fact is not None and item.fact in facts:
            self.hypotheses.append((weight, item.texts[facts[item.fact]].encode(), rest, facts))
        else:
            for choice, text in enumerate(item.texts):
                known = facts if item.fact is None else {**facts, item.fact: choice}
                share = weight * 2.0 ** -code_length(len(item.texts), choice)
                self.hypotheses.append((share, text.encode(), rest, known))


class NextByteModel(nn.Module):
    """A model of documents of bytes with the interface that `NextTokenLoss` needs; subclasses say `log_probs`."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        super().__init__()
        self.vocab_size = tokenizer.vocab_size
        self.lm_head = nn.Linear(self.vocab_size, self.vocab_size, bias=False, dtype=torch.float64)
        nn.init.eye_(self.lm_head.weight)
        self.delimiter_id = tokenizer.delimiter_id
        tokens = {i: tokenizer.token_bytes(i) for i in range(self.vocab_size)}
        self.byte_of = {i: raw[0] for i, raw in tokens.items() if len(raw) == 1}
        self.token_of = {byte: i for i, byte in self.byte_of.items()} | {END: self.delimiter_id}
        assert len(self.byte_of) == 256

    def hidden(self, tokens: Tensor, documents: object = None) -> Tensor:
        """Return log-probabilities (B, T, V) of what follows each token; a delimiter begins a document."""
        logits = torch.full((*tokens.shape, self.vocab_size), _IMPOSSIBLE, dtype=torch.float64)
        columns = [self.token_of[byte] for byte in range(END + 1)]
        for b, row in enumerate(tokens.tolist()):
            starts = [i for i, token in enumerate(row) if token == self.delimiter_id]
            for start, stop in zip(starts, [*starts[1:], len(row)], strict=True):
                text = bytes(self.byte_of[token] for token in row[start + 1 : stop])
                logs = torch.from_numpy(self.next_bytes(text)).log().clamp(min=_IMPOSSIBLE)
                logits[b, start:stop, columns] = logs
        return logits

    def next_bytes(self, text: bytes) -> Probabilities:
        """Return the probabilities of what follows text[:0], text[:1], ... text: (bytes + 1, END + 1)."""
        raise NotImplementedError


class OracleModel(NextByteModel):
    """The grammar itself, mixed with `uniform` of the uniform distribution."""

    def __init__(self, tokenizer: Tokenizer, uniform: float = 0.0) -> None:
        super().__init__(tokenizer)
        self.uniform = uniform

    def next_bytes(self, text: bytes) -> Probabilities:
        oracle, found = Oracle(), np.full((len(text) + 1, END + 1), self.uniform / (END + 1))
        for t in range(len(text) + 1):
            for byte, probability in oracle.probabilities().items():
                found[t, byte] += (1 - self.uniform) * probability
            if t < len(text):
                oracle.read(text[t])
        return found


class NGramModel(NextByteModel):
    """The bytes that followed the last `order` - 1 bytes in `texts`, interpolated with the orders below."""

    def __init__(self, tokenizer: Tokenizer, texts: Sequence[str], order: int) -> None:
        super().__init__(tokenizer)
        counts: dict[bytes, Counter[int]] = defaultdict(Counter)
        for text in texts:
            raw = text.encode()
            for t in range(len(raw) + 1):
                for size in range(min(order, t + 1)):
                    counts[raw[t - size : t]][raw[t] if t < len(raw) else END] += 1
        self.order = order
        self.counts = {
            before: (np.array(list(near)), np.array(list(near.values()))) for before, near in counts.items()
        }

    def next_bytes(self, text: bytes) -> Probabilities:
        found = np.full((len(text) + 1, END + 1), 1 / (END + 1))
        for t, row in enumerate(found):
            for size in range(min(self.order, t + 1)):
                if (near := self.counts.get(text[t - size : t])) is None:
                    break
                followers, numbers = near
                total = numbers.sum() + len(numbers)  # Witten and Bell, 1991
                row *= len(numbers) / total
                row[followers] += numbers / total
        return found


def count_derivations(span: tuple[int, int]) -> tuple[int, int, int]:
    """Return the bits and bytes of stories start to stop, and how many have more or fewer derivations than one."""
    bits = size = wrong = 0
    for number in range(*span):
        text = write_story(0, number)
        found = list(derivations(text, load_grammar().story))
        bits, size, wrong = bits + sum(found), size + len(text.encode()), wrong + (len(found) != 1)
    return bits, size, wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100_000)
    count, began = parser.parse_args().count, time.perf_counter()
    spans = [(start, min(start + 1000, count)) for start in range(0, count, 1000)]
    with ProcessPoolExecutor() as pool:
        bits, size, wrong = map(sum, zip(*pool.map(count_derivations, spans), strict=True))
    print(f"{count:,} stories, {wrong} without exactly one derivation, floor {bits / size:.4f} bits per byte")
    print(f"{time.perf_counter() - began:.0f} seconds")
    raise SystemExit(wrong > 0)


if __name__ == "__main__":
    main()
