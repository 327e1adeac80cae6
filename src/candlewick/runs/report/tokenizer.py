"""Reports on a tokenizer: its properties, how well it fits a text, and what it encodes and decodes."""

from pathlib import Path
from typing import Any

from candlewick.artifacts.manifest import MANIFEST, read_manifest
from candlewick.config import TokenizerConfig
from candlewick.errors import ConfigError, DataError
from candlewick.runs.sources import find_tokenizer, open_tokenizer
from candlewick.tokenizer.artifact import KIND, measure
from candlewick.tokenizer.bpe import Tokenizer


def inspect_tokenizer(source: Path | TokenizerConfig | Tokenizer, text: Path | None) -> dict[str, Any]:
    """Describe the tokenizer in a folder or file, or that settings name; with a text, also how well it fits.

    Raises TokenizerError, ConfigError if the settings name none, DataError for a text that is not UTF-8.
    """
    tokenizer = Tokenizer.load(find_tokenizer(source)) if isinstance(source, Path) else source
    if isinstance(tokenizer, TokenizerConfig):
        tokenizer = open_tokenizer(tokenizer)
    if tokenizer is None:
        raise ConfigError("no tokenizer is named", "give its folder, or a --config that names one")
    tokens = map(tokenizer.token_bytes, range(tokenizer.vocab_size))
    longest = sorted(tokens, key=lambda token: (-len(token), token))
    result: dict[str, Any] = {
        "vocab_size": tokenizer.vocab_size,
        "pattern": tokenizer.pattern,
        "delimiter_id": tokenizer.delimiter_id,
        "end_id": tokenizer.end_id,
        "stop_ids": list(tokenizer.stop_ids),
        "padding_id": tokenizer.padding_id,
        "special_tokens": tokenizer.special_tokens,
        "template": " ".join(tokenizer.template) or None,
        "document": " ".join(filter(None, (tokenizer.roles.delimiter, "TEXT", tokenizer.roles.end))),
        "missing_bytes": tokenizer.missing_bytes,
        "changes": list(tokenizer.changes),
        "sha256": tokenizer.sha256,
        "longest_tokens": [token.decode(errors="replace") for token in longest[:10]],
    }
    if isinstance(source, Path) and (source / MANIFEST).is_file():
        manifest = read_manifest(source)
        if manifest.kind == KIND:
            result["made"] = {"id": manifest.id, "details": manifest.details, "config": manifest.config}
    if text is not None:
        result["text"] = measure(tokenizer, [decode_utf8(text.read_bytes(), str(text))])
    return result


def encode_text(folder: Path, text: str) -> dict[str, Any]:
    """Return the `ids` of a text and the text of each, `pieces`. Raises TokenizerError."""
    tokenizer = Tokenizer.load(find_tokenizer(folder))
    ids = tokenizer.encode(text)
    return {"ids": ids, "pieces": [tokenizer.token_bytes(i).decode(errors="replace") for i in ids]}


def decode_ids(folder: Path, ids: list[int]) -> dict[str, Any]:
    """Return `ids` and their `text`, with special tokens by name. Raises TokenizerError."""
    return {"ids": ids, "text": Tokenizer.load(find_tokenizer(folder)).decode(ids, skip_special=False)}


def decode_utf8(content: bytes, where: str) -> str:
    """Return bytes as text. Raises DataError that says `where` they come from and which byte is wrong."""
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise DataError(f"{where}: byte {error.start} is not UTF-8", "give UTF-8 text") from None
