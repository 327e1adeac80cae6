"""How well a tokenizer fits a text: bytes per token, and whether every text comes back as it was.

Bytes per token is what a token is worth: the loss per token divided by it compares across tokenizers. Measured on
text that the tokenizer was not trained on, else it flatters.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from candlewick.tokenizer.bpe import Tokenizer


@dataclass(frozen=True, slots=True)
class TokenizerReport:
    """A tokenizer measured on some texts. Ratios are 0 where there is nothing to divide by."""

    texts: int
    bytes: int
    tokens: int
    used_tokens: int
    vocab_size: int
    changed_texts: int

    @property
    def bytes_per_token(self) -> float:
        """UTF-8 bytes that a token stands for on average."""
        return self.bytes / self.tokens if self.tokens else 0.0

    @property
    def tokens_per_text(self) -> float:
        """Tokens that a text becomes on average, the delimiter not counted."""
        return self.tokens / self.texts if self.texts else 0.0

    @property
    def coverage(self) -> float:
        """Share of the vocabulary that occurs in the texts."""
        return self.used_tokens / self.vocab_size

    @property
    def lossless(self) -> bool:
        """Whether every text came back as it was."""
        return not self.changed_texts


def measure(tokenizer: Tokenizer, texts: Iterable[str]) -> TokenizerReport:
    """Encode and decode each text. Raises TokenizerError for text that has no UTF-8 form."""
    count = num_bytes = num_tokens = changed = 0
    used: set[int] = set()
    for text in texts:
        ids = tokenizer.encode(text)
        count += 1
        num_bytes += len(text.encode())
        num_tokens += len(ids)
        used.update(ids)
        changed += tokenizer.decode(ids) != text
    return TokenizerReport(count, num_bytes, num_tokens, len(used), tokenizer.vocab_size, changed)
