"""Validation of a tokenizer.json: its properties, or the reason why it cannot be used.

                 normalizer          pre-tokenizer                     decoder
    byte level   none, NFC, ...      known patterns, then ByteLevel    ByteLevel      ours, GPT-2's, Llama 3's,
                                                                                      Qwen2's, Rust programs'
    pieces       Prepend, Replace    none, or Metaspace                Replace, ...   Llama 2's; what is not in it
                                                                                      is bytes, tokens <0xNN>

The model is BPE in all of them. A file from elsewhere may hang or kill the process, so regular expressions must be
known to the letter; two JSON readers may differ on odd input, so the library gets the validated tree.
"""

import json
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

from tokenizers import Tokenizer as RustTokenizer

from candlewick.errors import TokenizerError
from candlewick.tokenizer.growth import MAX_GROWTH, max_growth
from candlewick.tokenizer.patterns import KNOWN_PATTERNS, find_pattern

SPACE = "\u2581"  # stands for a space in SentencePiece tokens
MAX_BYTES = 64 << 20
MAX_VALUES = 4 << 20  # in a file; each takes some 70 bytes. Gemma's has 1.8 million
MAX_ADDED_CHARS = 1 << 20
_MAX_STEPS = 32
CALL_SETTINGS = ("truncation", "padding")
"""Sections of tokenizer.json in which transformers leaves the settings of its last call."""

_KNOWN_STEPS = {
    "normalizer": {"NFC", "NFD", "NFKC", "NFKD", "Lowercase", "StripAccents", "Strip", "Prepend", "Replace"},
    "post_processor": {"ByteLevel", "TemplateProcessing", "RobertaProcessing", "BertProcessing"},
    "decoder": {"Replace", "ByteFallback", "Fuse", "Strip", "Metaspace"},
}

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class TokenizerProperties:
    """The properties of a validated file."""

    pattern: str  # names of the patterns, joined by +; "none" cuts nowhere
    is_byte_level: bool
    adds_space: bool  # before a text that does not begin with one
    missing_bytes: int  # bytes of 256 that no token covers
    changes: tuple[str, ...]  # how decoding differs from the text, in words
    size: int  # the largest id + 1
    special: Mapping[str, int]


_PRINTABLE = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
_OTHERS = [byte for byte in range(256) if byte not in _PRINTABLE]
BYTE_OF = {chr(byte): byte for byte in _PRINTABLE} | {chr(256 + i): byte for i, byte in enumerate(_OTHERS)}
"""The byte that each printable character stands for in a vocabulary (GPT-2's table)."""


def parse_object(content: bytes, where: str) -> Json:
    """Parse a JSON object. Raises TokenizerError, also for a repeated key and half a surrogate pair."""

    def unique(pairs: list[tuple[str, Any]]) -> Json:
        section = dict(pairs)
        if len(section) < len(pairs):
            raise ValueError("a key is given twice")
        return section

    def refuse(name: str) -> None:
        raise ValueError(f"{name} is no number of JSON")

    if sum(content.count(mark) for mark in (b",", b"[", b"{")) > MAX_VALUES:
        raise TokenizerError(f"{where} has more than {MAX_VALUES:,} values", "get the file again")
    try:
        tree: object = json.loads(content.decode(), object_pairs_hook=unique, parse_constant=refuse)
        if b"\\ud" in content.lower():  # half a surrogate pair cannot be written again
            json.dumps(tree, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise TokenizerError(f"{where} is not valid JSON: {str(error)[:200]}", "get the file again") from None
    if not isinstance(tree, dict):
        raise TokenizerError(f"{where} is not a tokenizer: it holds no object", "get the file again")
    return cast(Json, tree)


def validate_tokenizer(tree: Json, where: str) -> TokenizerProperties:
    """Return the properties of a tokenizer. Raises TokenizerError for one that this program cannot use."""

    def require(condition: bool, problem: str) -> None:
        if not condition:
            raise TokenizerError(f"{where} cannot be used: {problem}", "use one made by `candlewick tokenizer`")

    is_byte_level, pattern = _check_steps(tree, require)
    require(step_type(tree.get("model")) == "BPE", "its model is not BPE")
    bpe = cast(Json, tree["model"])
    affixes = [name for name in ("continuing_subword_prefix", "end_of_word_suffix") if bpe.get(name)]
    require(not affixes, f"its model sets {', '.join(affixes)}")
    vocab, merges = bpe.get("vocab"), bpe.get("merges")
    require(isinstance(vocab, dict) and isinstance(merges, list), "it has no vocabulary or no merges")
    unknown = bpe.get("unk_token")
    require(unknown is None or unknown in list(cast(Json, vocab)), "its unk_token is not in its vocabulary")
    require(isinstance(bpe.get("dropout"), int | float | None), "its dropout is not a number")
    added = tree.get("added_tokens")
    require(isinstance(added, list), "it has no added tokens")
    ids: dict[str, object] = dict(cast(Json, vocab))
    special: dict[str, int] = {}
    for token in cast("list[object]", added):
        match token:
            case {"content": str(name), "id": int(i), "special": bool(is_special), "lstrip": l, "rstrip": r} if (
                is_special or not (l or r)
            ):
                require(ids.setdefault(name, i) == i, f"{name[:40]!r} has two ids")
                special |= {name: i} if is_special else {}
            case _:
                require(False, f"the added token {str(token)[:80]} is not special, and takes spaces with it")
    chars = sum(len(token["content"]) for token in cast("list[Json]", added))
    require(chars <= MAX_ADDED_CHARS, f"its added tokens have {chars:,} characters, at most 1,048,576 are read")
    numbers = {i for i in ids.values() if type(i) is int and i >= 0}
    require(len(numbers) == len(ids), f"its {len(ids)} ids are not whole numbers from 0 on, each once")
    size = max(numbers, default=-1) + 1
    require(size <= 2 * len(ids), f"its {len(ids)} ids go up to {size - 1}: more than half are missing")
    missing = _count_missing_bytes(bpe, is_byte_level)
    adds_space = tree != without_prefix(tree)
    changes = tuple(_describe_changes(tree, is_byte_level, adds_space, missing))
    return TokenizerProperties(pattern, is_byte_level, adds_space, missing, changes, size, special)


def _check_steps(tree: Json, require: Callable[[bool, str], None]) -> tuple[bool, str]:
    """Return whether a tokenizer is of bytes, and the name of its pattern, if all its steps are known and safe."""
    for name in ("normalizer", "post_processor"):
        is_known = all(_is_known(step, _KNOWN_STEPS[name]) for step in find_steps(tree, name))
        names = ", ".join(sorted(_KNOWN_STEPS[name]))
        require(
            is_known, f"its {name} is none of {names}, or is long, replaces nothing or has a regular expression"
        )
    is_byte_level = step_type(tree.get("decoder")) == "ByteLevel"
    decoders = find_steps(tree, "decoder")
    is_pieces = bool(decoders) and all(_is_known(step, _KNOWN_STEPS["decoder"]) for step in decoders)
    require(is_byte_level or is_pieces, "its decoder is not ByteLevel, nor that of SentencePiece")
    for name in ("normalizer", "decoder", "post_processor"):
        steps = cast("list[Json]", find_steps(tree, name))
        require(len(steps) <= _MAX_STEPS, f"its {name} has {len(steps)} steps, at most {_MAX_STEPS} are read")
        growth = max_growth(steps)
        problem = f"its {name} makes {growth:.3g} characters of one, at most {MAX_GROWTH} are read"
        require(growth <= MAX_GROWTH, problem)
    pattern = find_pattern(find_steps(tree, "pre_tokenizer"), is_byte_level)
    require(pattern is not None, "its pre-tokenizer is none of " + ", ".join(KNOWN_PATTERNS))
    return is_byte_level, cast(str, pattern)


def step_type(step: object) -> str | None:
    """Return the type of a step, None if it is not a step."""
    kind = cast(Json, step).get("type") if isinstance(step, dict) else None
    return kind if isinstance(kind, str) else None


def find_steps(tree: Json, name: str) -> list[object]:
    """Return the steps of a normalizer, pre-tokenizer, decoder or post-processor in order."""
    step: object = tree.get(name)
    if step_type(step) == "Sequence":
        lists = [value for value in cast(Json, step).values() if isinstance(value, list)]
        return lists[0] if len(lists) == 1 else [step]
    return [] if step is None else [step]


def _is_known(step: object, kinds: set[str]) -> bool:
    """Return whether a step is of a known type, short, and without a regular expression or an empty pattern."""
    match step:
        case {"type": "Replace", "pattern": {"String": str(pattern), **rest}, "content": str()}:
            is_whole = bool(pattern) and not rest
        case {"type": "Replace"}:
            is_whole = False
        case {"type": "Prepend"}:
            is_whole = isinstance(cast(Json, step).get("prepend"), str)
        case _:
            is_whole = True
    return is_whole and step_type(step) in kinds and len(json.dumps(step)) <= 1000


def _count_missing_bytes(bpe: Json, is_byte_level: bool) -> int:
    vocab = cast(Json, bpe["vocab"])
    if is_byte_level:
        return len(BYTE_OF.keys() - vocab.keys())
    plain = {byte for byte in range(128) if chr(byte).replace(" ", SPACE) in vocab}
    if bpe.get("byte_fallback"):
        plain.update(byte for byte in range(256) if f"<0x{byte:02X}>" in vocab)
    return 256 - len(plain)


def without_prefix(tree: Json) -> Json:
    """Return the tokenizer of a continued text, which adds no space before it."""
    never, changed = {"add_prefix_space": False, "prepend_scheme": "never"}, dict(tree)
    for name, key in (("pre_tokenizer", "pretokenizers"), ("normalizer", "normalizers")):
        steps = cast("list[Json]", find_steps(tree, name))
        others = [step for step in steps if step_type(step) != "Prepend"]
        remaining = [step | {option: never[option] for option in never.keys() & step.keys()} for step in others]
        if remaining != steps:
            changed[name] = {"type": "Sequence", key: remaining}
    return changed


def _describe_changes(tree: Json, is_byte_level: bool, adds_space: bool, missing: int) -> Iterator[str]:
    kinds = [step_type(step) or "" for step in find_steps(tree, "normalizer")]
    kinds = [kind for kind in kinds if is_byte_level or kind not in ("Prepend", "Replace")]
    if missing:
        unknown = tree["model"].get("unk_token")
        yield f"{missing} of the 256 bytes {'are dropped' if unknown is None else f'become {unknown}'}"
    if kinds:
        yield f"text is normalized ({', '.join(kinds)})"
    if not is_byte_level:
        yield f"{SPACE} (U+2581) becomes a space"
    elif adds_space:
        yield "a space comes before text that begins without one"


@contextmanager
def native_panics(where: str, problem: str) -> Generator[None]:
    """Turn a panic of a native library, which is no Exception, into TokenizerError."""
    try:
        yield
    except BaseException as error:
        if isinstance(error, Exception | KeyboardInterrupt | SystemExit | GeneratorExit):
            raise
        raise TokenizerError(f"{where} {problem}: {str(error)[:200]}", "get the file again") from None


@contextmanager
def tokenizers_errors(where: str, problem: str = "is not a tokenizer") -> Generator[None]:
    """Turn errors and panics of the tokenizers library about a file into TokenizerError."""
    try:
        with native_panics(where, problem):
            yield
    except Exception as error:
        if isinstance(error, TokenizerError | MemoryError):
            raise
        raise TokenizerError(f"{where} {problem}: {str(error)[:200]}", "get the file again") from None


def load_rust(tree: Json, where: str) -> RustTokenizer:
    """Load a validated tree. Raises TokenizerError if the library refuses it or reads other ids."""
    with tokenizers_errors(where):
        rust = RustTokenizer.from_str(json.dumps(tree))
    for name, number in ((token["content"], token["id"]) for token in tree["added_tokens"]):
        if (library_id := rust.token_to_id(name)) != number:
            problem = f"{name[:40]!r} has id {number}, which the library reads as {library_id}"
            raise TokenizerError(f"{where} cannot be used: {problem}", "give the added tokens ids without gaps")
    rust.encode_special_tokens = True  # in text they are plain text
    return rust
