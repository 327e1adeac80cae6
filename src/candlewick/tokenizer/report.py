"""Measures of a tokenizer on a text: bytes per token, and whether decoding restores every text.

    bytes_per_token    the loss per token divided by it compares across tokenizers
    tokens_per_text    the delimiter not counted
    coverage           share of the vocabulary that occurs
    changed_texts      texts that decoding does not restore

Text that the tokenizer was trained on would flatter it. A ratio of nothing is null.
"""

from collections.abc import Iterable

from candlewick.tokenizer.bpe import Tokenizer


def measure(tokenizer: Tokenizer, texts: Iterable[str]) -> dict[str, float | None]:
    """Return the measures of a tokenizer on texts. Raises TokenizerError for text without a UTF-8 form."""
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
