"""Readers of tokenizer files return the content of one tokenizer.json and of its tokenizer_config.json.

    tokenizer.json  tokenizer_config.json                    read as they are
    chat_template.jinja                                      in the place of the template in tokenizer_config.json
    vocab.json  merges.txt  special_tokens.txt               a byte-level BPE in two files, without the rest

Vocabulary and merges name no pattern and no template. The defaults: a space before text that begins without one,
GPT-2's pattern, and `<bos>` and `<eos>` around a text where both exist; a tokenizer_config.json, as in folders of
the Hub, takes precedence.
"""

import hashlib
from collections.abc import Container, Sequence
from pathlib import Path
from typing import cast

from tokenizers import Regex, decoders, models, normalizers, processors
from tokenizers import Tokenizer as RustTokenizer
from tokenizers import pre_tokenizers as pre

from candlewick.artifacts.manifest import MANIFEST, read_bounded, read_manifest
from candlewick.errors import ArtifactError, TokenizerError
from candlewick.tokenizer.check import MAX_BYTES, Json, parse_object, tokenizers_errors
from candlewick.tokenizer.patterns import PATTERNS
from candlewick.tokenizer.special import CHAT_TOKENS, PADDINGS, PAIRS

TOKENIZER_JSON = "tokenizer.json"
TOKENIZER_CONFIG_JSON = "tokenizer_config.json"
TEMPLATE_JINJA = "chat_template.jinja"
VOCAB_JSON = "vocab.json"
MERGES_TXT = "merges.txt"
SPECIAL_TOKENS_TXT = "special_tokens.txt"

_KNOWN_SPECIAL_TOKENS = {*PAIRS, *PAIRS.values(), *PADDINGS, *CHAT_TOKENS, "<unk>"}

AddedTokens = Path | Sequence[str] | None
"""Special tokens: a file of names, or names; None: the known names."""
TokenizerFiles = tuple[bytes, str, Json]
"""The content of a tokenizer.json, its name in messages, and its tokenizer_config.json with the chat template."""


def read_files(path: Path) -> TokenizerFiles:
    """Read a tokenizer.json, or the tokenizer in a folder. Raises TokenizerError."""
    folder, file = (path, path / TOKENIZER_JSON) if path.is_dir() else (path.parent, path)
    if path.is_dir() and not file.exists() and (path / VOCAB_JSON).exists():
        special = path / SPECIAL_TOKENS_TXT
        return read_vocab_files(path / VOCAB_JSON, path / MERGES_TXT, special if special.exists() else None)
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
    names = special or [name for name in ids if name in _KNOWN_SPECIAL_TOKENS]
    if isinstance(names, Path):
        names = read_special_tokens(names, ids)
    with tokenizers_errors(where):
        is_qwen = str(settings.get("tokenizer_class")).startswith("Qwen2")
        options = {"add_prefix_space": add_prefix_space, "use_regex": not is_qwen}
        rust = byte_level(models.BPE(ids, pairs), PATTERNS["qwen2"] if is_qwen else None, **options)
        if is_qwen:
            rust.normalizer = normalizers.NFC()  # pyright: ignore[reportAttributeAccessIssue]
        rust.add_special_tokens(list(names))
        if {"<bos>", "<eos>"} <= set(names):
            set_post_processor(rust, "<bos>", "<eos>")
    return rust.to_str(pretty=True).encode(), where, settings


def byte_level(model: models.BPE, pattern: str | None = None, **options: bool) -> RustTokenizer:
    """Return a byte-level tokenizer with an optional pattern; `options` are those of its pre-tokenizer."""
    rust = RustTokenizer(model)
    to_bytes = pre.ByteLevel(**options)
    steps = to_bytes if pattern is None else pre.Sequence([pre.Split(Regex(pattern), "isolated"), to_bytes])
    rust.pre_tokenizer = steps  # pyright: ignore[reportAttributeAccessIssue]
    rust.decoder = decoders.ByteLevel()  # pyright: ignore[reportAttributeAccessIssue]
    return rust


def set_post_processor(rust: RustTokenizer, start: str | None, end: str | None, *, pair: bool = True) -> None:
    """Set a template with special tokens around a text; with `pair` around the second text of two, too."""
    single = " ".join(filter(None, (start, "$A", end)))
    special = [(name, cast(int, rust.token_to_id(name))) for name in (start, end) if name]
    rust.post_processor = processors.TemplateProcessing(  # pyright: ignore[reportAttributeAccessIssue]
        single, f"{single} {single.replace('$A', '$B') if pair else '$B'}", special
    )


def read_special_tokens(path: Path, tokens: Container[str]) -> list[str]:
    """Read a list of special tokens: a JSON array, or one to a line with comments after `#`.

    Raises TokenizerError for a file that is not a list of names, and for a name that `tokens` lacks.
    """
    text = _read_text(path)
    if text.lstrip().startswith("["):
        items = parse_object(b'{"names": %s}' % text.encode(), str(path))["names"]
    else:
        lines = (line.strip() for line in text.splitlines())
        items = [line for line in lines if line and not line.startswith("#")]
    names = [name for name in items if isinstance(name, str) and name]
    if not names or len(names) < len(items) or len(set(names)) < len(names):
        raise TokenizerError(
            f"{path} is not a list of special tokens, each once",
            "write a JSON array of names, or one name to a line",
        )
    if missing := [name for name in names if name not in tokens]:
        raise TokenizerError(
            f"{path} lists {', '.join(missing)[:200]}, which the tokenizer does not have as special tokens",
            "give the list that belongs to the tokenizer",
        )
    return names


def _read_config(folder: Path) -> Json:
    file, template = folder / TOKENIZER_CONFIG_JSON, folder / TEMPLATE_JINJA
    settings = parse_object(_read_bytes(file), str(file)) if file.exists() else {}
    return settings | ({"chat_template": _read_text(template)} if template.exists() else {})


def _read_text(path: Path) -> str:
    try:
        return _read_bytes(path).decode()
    except UnicodeDecodeError as error:
        raise TokenizerError(f"{path}: byte {error.start} is not UTF-8", "get the file again") from None


def _read_bytes(file: Path) -> bytes:
    try:
        content = read_bounded(file, MAX_BYTES)
    except FileNotFoundError:
        raise TokenizerError(f"{file} does not exist", "give a tokenizer.json or its folder") from None
    except OSError as error:
        raise TokenizerError(f"{file} cannot be read: {error.strerror}", "name a tokenizer") from None
    if _listed_sha256(file) not in (None, hashlib.sha256(content).hexdigest()):
        raise TokenizerError(
            f"{file} was changed: its {MANIFEST} has another sha256",
            f"restore it, or remove {MANIFEST} to use it as your own",
        )
    return content


def _listed_sha256(file: Path) -> str | None:
    """Return the hash that the manifest of its folder lists for a file; None without one."""
    if not (file.parent / MANIFEST).is_file():
        return None
    try:
        entries = read_manifest(file.parent).files
    except ArtifactError:  # another program's, or damaged itself
        return None
    return next((entry.sha256 for entry in entries if entry.name == file.name), None)
