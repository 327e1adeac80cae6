"""The files of a tokenizer -> the content of one tokenizer.json, and what stands in the files beside it.

    tokenizer.json  tokenizer_config.json                    read as they are
    vocab.json  merges.txt  special_tokens.txt               a byte-level BPE in two files, without the rest

The two files do not say how text is cut or what a template adds. They are read with a space before a text
that begins without one, GPT-2's pattern, and where there are `<bos>` and `<eos>`, with these around it; a
tokenizer_config.json, as folders of the Hub have it, is followed.
"""

from collections.abc import Container, Sequence
from pathlib import Path
from typing import cast

from tokenizers import Regex, decoders, models, normalizers, processors
from tokenizers import Tokenizer as RustTokenizer
from tokenizers import pre_tokenizers as pre

from candlewick.errors import TokenizerError
from candlewick.tokenizer.check import MAX_BYTES, PATTERNS, Json, parse_object, tokenizers_errors
from candlewick.tokenizer.special import CHAT_TOKENS, PADDINGS, PAIRS

TOKENIZER_JSON = "tokenizer.json"
TOKENIZER_CONFIG_JSON = "tokenizer_config.json"
VOCAB_JSON = "vocab.json"
MERGES_TXT = "merges.txt"
SPECIAL_TOKENS_TXT = "special_tokens.txt"

_KNOWN_SPECIAL_TOKENS = {*PAIRS, *PAIRS.values(), *PADDINGS, *CHAT_TOKENS, "<unk>"}

AddedTokens = Path | Sequence[str] | None
"""Special tokens: a file of them, or their names; None: those that are known by name."""
TokenizerFiles = tuple[bytes, str, Json]
"""The content of a tokenizer.json, what messages call it, and the content of its tokenizer_config.json."""


def read_files(path: Path) -> TokenizerFiles:
    """Read a tokenizer.json, or the tokenizer in a folder. Raises TokenizerError."""
    folder, file = (path, path / TOKENIZER_JSON) if path.is_dir() else (path.parent, path)
    if path.is_dir() and not file.exists() and (path / VOCAB_JSON).exists():
        listed = path / SPECIAL_TOKENS_TXT
        return read_vocab_files(path / VOCAB_JSON, path / MERGES_TXT, listed if listed.exists() else None)
    return _read_bytes(file), str(file), _read_config(folder)


def read_vocab_files(
    vocab: Path, merges: Path, special: AddedTokens = None, *, add_prefix_space: bool = True
) -> TokenizerFiles:
    """Read a vocabulary and merges as one tokenizer. Raises TokenizerError."""
    where = f"{vocab} with {merges}"
    ids = parse_object(_read_bytes(vocab), str(vocab))
    lines = [line.rstrip("\r") for line in _read_text(merges).split("\n") if not line.startswith("#version")]
    pairs = cast("list[tuple[str, str]]", [tuple(line.split(" ")) for line in lines if line])
    settings = _read_config(vocab.parent)
    if settings:
        add_prefix_space = bool(settings.get("add_prefix_space", False))
    listed = special or [name for name in ids if name in _KNOWN_SPECIAL_TOKENS]
    if isinstance(listed, Path):
        listed = read_special_tokens(listed, ids)
    with tokenizers_errors(where):
        is_qwen = str(settings.get("tokenizer_class")).startswith("Qwen2")
        options = {"add_prefix_space": add_prefix_space, "use_regex": not is_qwen}
        rust = byte_level(models.BPE(ids, pairs), PATTERNS["qwen2"] if is_qwen else None, **options)
        if is_qwen:
            rust.normalizer = normalizers.NFC()  # pyright: ignore[reportAttributeAccessIssue]
        rust.add_special_tokens(list(listed))
        if {"<bos>", "<eos>"} <= set(listed):
            set_post_processor(rust, "<bos>", "<eos>")
    return rust.to_str(pretty=True).encode(), where, settings


def byte_level(model: models.BPE, pattern: str | None = None, **options: bool) -> RustTokenizer:
    """Return a byte-level tokenizer that may cut by a pattern; `options` are those of its pre-tokenizer."""
    rust = RustTokenizer(model)
    to_bytes = pre.ByteLevel(**options)
    steps = to_bytes if pattern is None else pre.Sequence([pre.Split(Regex(pattern), "isolated"), to_bytes])
    rust.pre_tokenizer = steps  # pyright: ignore[reportAttributeAccessIssue]
    rust.decoder = decoders.ByteLevel()  # pyright: ignore[reportAttributeAccessIssue]
    return rust


def set_post_processor(rust: RustTokenizer, begin: str | None, end: str | None, *, pair: bool = True) -> None:
    """Set a template with special tokens around a text; with `pair` around the second of two as well."""
    single = " ".join(filter(None, (begin, "$A", end)))
    special = [(name, cast(int, rust.token_to_id(name))) for name in (begin, end) if name]
    rust.post_processor = processors.TemplateProcessing(  # pyright: ignore[reportAttributeAccessIssue]
        single, f"{single} {single.replace('$A', '$B') if pair else '$B'}", special
    )


def read_special_tokens(path: Path, known: Container[str]) -> list[str]:
    """Read a list of special tokens: a JSON array, or one to a line with comments after `#`.

    Raises TokenizerError for what is no list of names, and for a name that is not `known`.
    """
    text = _read_text(path)
    if text.lstrip().startswith("["):
        found = parse_object(b'{"names": %s}' % text.encode(), str(path))["names"]
    else:
        lines = (line.strip() for line in text.splitlines())
        found = [line for line in lines if line and not line.startswith("#")]
    names = [name for name in found if isinstance(name, str) and name]
    if not names or len(names) < len(found) or len(set(names)) < len(names):
        raise TokenizerError(
            f"{path} is not a list of special tokens, each once",
            "write a JSON array of names, or one name to a line",
        )
    if missing := [name for name in names if name not in known]:
        raise TokenizerError(
            f"{path} lists {', '.join(missing)[:200]}, which the tokenizer does not have as special tokens",
            "give the list that belongs to the tokenizer",
        )
    return names


def _read_config(folder: Path) -> Json:
    file = folder / TOKENIZER_CONFIG_JSON
    return parse_object(_read_bytes(file), str(file)) if file.exists() else {}


def _read_text(path: Path) -> str:
    try:
        return _read_bytes(path).decode()
    except UnicodeDecodeError as error:
        raise TokenizerError(f"{path}: byte {error.start} is not UTF-8", "get the file again") from None


def _read_bytes(file: Path) -> bytes:
    try:
        with file.open("rb") as stream:
            content = stream.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise TokenizerError(
            f"{file} does not exist", "give a tokenizer.json or a folder that holds one"
        ) from None
    if len(content) > MAX_BYTES:
        raise TokenizerError(
            f"{file} is larger than {MAX_BYTES >> 20} MiB, too large for a tokenizer", "name another file"
        )
    return content
