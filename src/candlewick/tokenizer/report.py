"""How well a tokenizer fits a text: bytes per token, and whether every text comes back as it was.

    bytes_per_token    what a token is worth: the loss per token divided by it compares across tokenizers
    tokens_per_text    the delimiter not counted
    coverage           share of the vocabulary that occurs
    changed_texts      did not come back as they were

Measured on text that the tokenizer was not trained on, else it flatters. A ratio of nothing is null.
"""

from collections.abc import Iterable

from candlewick.tokenizer.bpe import Tokenizer


def measure(tokenizer: Tokenizer, texts: Iterable[str]) -> dict[str, float | None]:
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
    return {
        "texts": count,
        "bytes": num_bytes,
        "tokens": num_tokens,
        "bytes_per_token": round(num_bytes / num_tokens, 4) if num_tokens else None,
        "tokens_per_text": round(num_tokens / count, 2) if count else None,
        "coverage": round(len(used) / tokenizer.vocab_size, 4),
        "changed_texts": changed,
    }
