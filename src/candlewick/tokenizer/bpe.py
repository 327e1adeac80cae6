"""Byte-level BPE: any text <-> ids, without loss.

    text --pattern--> pre-tokens --UTF-8 bytes--> 256 base tokens --merges--> ids

No normalizer, so decomposed accents and odd spaces stay what they are; all 256 bytes are tokens, so nothing is
unknown. Merges never cross the borders that the pattern draws around words, digits, punctuation and line ends. It
is the pattern of Qwen2, since readers such as llama.cpp know patterns by name and refuse new ones. `<|endoftext|>`
(id 0) goes before each document. Text can never produce it: the same letters in a text become ordinary tokens.

On disk it is Hugging Face's `tokenizer.json`, plus a `tokenizer_config.json` that names the class which reads the
former as it is. A file from elsewhere is checked before use: its pattern must be a known one (others can hang or
kill the process), its ids dense, its special tokens special.

For chats there are two more special tokens (`tokenizer.chat`); a tokenizer without them gets them as its last ids.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from tokenizers import Tokenizer as RustTokenizer

from candlewick.artifacts import FileEntry, write_durable
from candlewick.errors import TokenizerError

DELIMITER = "<|endoftext|>"
PADDING = "<|padding|>"
MESSAGE_START = "<|im_start|>"
MESSAGE_END = "<|im_end|>"
CHAT_TOKENS = (MESSAGE_START, MESSAGE_END)
TOKENIZER_JSON = "tokenizer.json"
TOKENIZER_CONFIG_JSON = "tokenizer_config.json"

_CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
PATTERNS = {
    "qwen2": _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}" + _REST,
    "cl100k": _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}" + _REST,
}
_MAX_BYTES = 64 << 20
_CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
_BPE_OFF = ("dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "fuse_unk", "byte_fallback")

Json = dict[str, Any]


class Tokenizer:
    """A checked tokenizer. Ids are 0 to `vocab_size` - 1."""

    def __init__(self, json_bytes: bytes, where: str = "the tokenizer") -> None:
        """Read the content of a tokenizer.json. Raises TokenizerError, which calls it `where`."""
        tree = _parse(json_bytes, where)
        self.pattern = _check(tree, where)
        self._rust = _load_rust(tree, where)
        self._rust.encode_special_tokens = True  # in text they are plain text
        self.json_bytes = json_bytes
        self.sha256 = hashlib.sha256(json_bytes).hexdigest()
        self.vocab_size: int = self._rust.get_vocab_size()
        self.padding_id: int | None = self._rust.token_to_id(PADDING)
        self.delimiter_id = cast(int, self._rust.token_to_id(DELIMITER))
        special = {token["content"] for token in tree["added_tokens"]}
        self.chat_ids: tuple[int, int] | None = None  # of CHAT_TOKENS
        if special.issuperset(CHAT_TOKENS):
            self.chat_ids = cast("tuple[int, int]", tuple(map(self._rust.token_to_id, CHAT_TOKENS)))

    @classmethod
    def load(cls, path: Path) -> "Tokenizer":
        """Load a tokenizer.json, or the one in a folder. Raises TokenizerError if it cannot be used."""
        file = path / TOKENIZER_JSON if path.is_dir() else path
        try:
            with file.open("rb") as stream:
                content = stream.read(_MAX_BYTES + 1)
        except FileNotFoundError:
            raise TokenizerError(
                f"{file} does not exist", "give a tokenizer.json or a folder that holds one"
            ) from None
        if len(content) > _MAX_BYTES:
            raise TokenizerError(f"{file} is larger than {_MAX_BYTES >> 20} MiB, too large for a tokenizer")
        return cls(content, str(file))

    def with_chat_tokens(self) -> "Tokenizer":
        """Return this tokenizer if it has the tokens of a chat, else one with the missing ones as its last ids."""
        if self.chat_ids is not None:
            return self
        tree = json.loads(self.json_bytes)
        known = {token["content"] for token in tree["added_tokens"]}
        next_id = self.vocab_size
        for content in CHAT_TOKENS:
            if content not in known:
                number = tree["model"]["vocab"].get(content, next_id)
                next_id += number == next_id
                token = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
                tree["added_tokens"].append({"id": number, "content": content, **token, "special": True})
        return Tokenizer(json.dumps(tree, indent=2, ensure_ascii=False).encode())

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text; nothing is added. Raises TokenizerError for half a surrogate pair in it."""
        try:
            return self._rust.encode(text, add_special_tokens=False).ids
        except TypeError:
            raise surrogate_error([text]) from None

    def decode(self, ids: Sequence[int], *, skip_special: bool = True) -> str:
        """Return the text of ids; bytes that are no UTF-8 become U+FFFD. Raises TokenizerError for a wrong id."""
        wrong = next((i for i in ids if not 0 <= i < self.vocab_size), None)
        if wrong is not None:
            raise TokenizerError(f"there is no token {wrong}", f"ids are 0 to {self.vocab_size - 1}")
        return self._rust.decode(list(ids), skip_special_tokens=skip_special)

    def token_bytes(self, token: int) -> bytes:
        """Return the bytes that a token stands for; of a special token, its name."""
        text = cast(str, self._rust.id_to_token(token))
        return bytes(_BYTE_OF[char] for char in text) if set(text) <= _BYTE_OF.keys() else text.encode()

    def write(self, folder: Path, *, model_max_length: int | None = None) -> list[FileEntry]:
        """Write tokenizer.json and tokenizer_config.json into `folder`, durably."""
        special = {"bos_token": DELIMITER, "eos_token": DELIMITER}
        if self.padding_id is not None:
            special["pad_token"] = PADDING
        # without this class, readers build their own tokenizer from the model's type, with other ids
        config: Json = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "clean_up_tokenization_spaces": False,
            **special,
        }
        if self.chat_ids is not None:
            config["chat_template"] = _CHAT_TEMPLATE
        if model_max_length is not None:
            config["model_max_length"] = model_max_length
        text = json.dumps(config, indent=2, ensure_ascii=False) + "\n"
        return [
            write_durable(folder / TOKENIZER_JSON, self.json_bytes),
            write_durable(folder / TOKENIZER_CONFIG_JSON, text.encode()),
        ]


def surrogate_error(texts: Sequence[str]) -> TokenizerError:
    """Say which text has no UTF-8 form, and where."""
    for number, text in enumerate(texts):
        at = next((i for i, char in enumerate(text) if "\ud800" <= char <= "\udfff"), None)
        if at is not None:
            which = f"text {number}" if len(texts) > 1 else "the text"
            return TokenizerError(
                f"{which} has half a surrogate pair (U+{ord(text[at]):04X}) at character {at}, so no UTF-8 form",
                "remove or replace it",
            )
    return TokenizerError("the input is not text")


def _byte_of() -> dict[str, int]:
    """The printable character that stands for each byte in a vocabulary (GPT-2's table), inverted."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}


_BYTE_OF = _byte_of()


def _parse(content: bytes, where: str) -> Json:
    def unique(pairs: list[tuple[str, Any]]) -> Json:
        section = dict(pairs)
        if len(section) < len(pairs):
            raise ValueError("a key is given twice")
        return section

    try:
        tree: object = json.loads(content, object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise TokenizerError(f"{where} is not valid JSON: {str(error)[:200]}", "get the file again") from None
    if not isinstance(tree, dict):
        raise TokenizerError(f"{where} is not a tokenizer: it holds no object", "get the file again")
    return cast(Json, tree)


def _check(tree: Json, where: str) -> str:
    """Refuse everything but lossless byte-level BPE with a known pattern; return the pattern's name."""

    def require(condition: bool, what: str) -> None:
        if not condition:
            raise TokenizerError(
                f"{where} cannot be used: {what}", "use a tokenizer made by `candlewick tokenizer`"
            )

    require(tree.get("normalizer") is None, "it has a normalizer, which changes text")
    require(tree.get("truncation") is None and tree.get("padding") is None, "it truncates or pads")
    require(_type(tree.get("post_processor")) in (None, "ByteLevel"), "it adds tokens to texts (post_processor)")
    require(_type(tree.get("decoder")) == "ByteLevel", "its decoder is not ByteLevel")
    pattern = _find_pattern(tree.get("pre_tokenizer"))
    require(pattern is not None, "its pre-tokenizer is none of " + ", ".join((*PATTERNS, "gpt2")))
    model = tree.get("model")
    require(isinstance(model, dict) and _type(model) == "BPE", "its model is not BPE")
    bpe = cast(Json, model)
    off = [name for name in (*_BPE_OFF, "ignore_merges") if bpe.get(name)]
    require(not off, f"its model sets {', '.join(off)}")
    vocab, merges = bpe.get("vocab"), bpe.get("merges")
    require(isinstance(vocab, dict) and isinstance(merges, list), "it has no vocabulary or no merges")
    ids: dict[str, object] = dict(cast(Json, vocab))
    require(_BYTE_OF.keys() <= ids.keys(), "its vocabulary lacks some of the 256 bytes")
    added = tree.get("added_tokens")
    require(isinstance(added, list), "it has no added tokens")
    for token in cast("list[object]", added):
        match token:
            case {"content": str(content), "id": int(number), "special": True, "lstrip": False, "rstrip": False}:
                require(ids.setdefault(content, number) == number, f"{content[:40]!r} has two ids")
            case _:
                require(False, f"the added token {str(token)[:80]} is not special, or takes spaces with it")
    require(DELIMITER in ids, f"it has no document delimiter {DELIMITER}")
    numbers = [i for i in ids.values() if type(i) is int]
    dense = len(numbers) == len(ids) and set(numbers) == set(range(len(ids)))
    require(dense, f"its {len(ids)} ids are not 0 to {len(ids) - 1}, each once")
    return cast(str, pattern)


def _type(part: object) -> object:
    return cast(Json, part).get("type") if isinstance(part, dict) else part


def _find_pattern(part: object) -> str | None:
    """Name the pre-tokenizer, if it is a known one to the letter."""
    match part:
        case {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": str(regex)}, "behavior": "Isolated", "invert": False},
                {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False},
            ],
        }:
            return next((name for name, known in PATTERNS.items() if known == regex), None)
        case {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}:
            return "gpt2"
        case _:
            return None


def _load_rust(tree: Json, where: str) -> RustTokenizer:
    """Hand over what was checked, not the file: two JSON readers may differ on odd input."""
    try:
        return RustTokenizer.from_str(json.dumps(tree))
    except BaseException as error:  # a panic in Rust derives from BaseException alone
        if isinstance(error, KeyboardInterrupt | SystemExit | MemoryError):
            raise
        raise TokenizerError(f"{where} is not a tokenizer: {str(error)[:200]}", "get the file again") from None
