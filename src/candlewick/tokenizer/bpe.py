"""A tokenizer maps text to ids and back: lossless byte-level BPE, and tokenizers of others unchanged.

    text --pattern--> pre-tokens --UTF-8 bytes--> 256 base tokens --merges--> ids

Candlewick's has no normalizer, and all 256 bytes are tokens, so no text is lost. Merges never cross the borders of
the pattern, which is Qwen2's, since readers such as llama.cpp know patterns by name and refuse new ones.
`<|endoftext|>` (id 0) goes before each document; the same letters in a text become ordinary tokens.

On disk it is Hugging Face's `tokenizer.json`, plus a `tokenizer_config.json`. A foreign tokenizer is validated
(`tokenizer.check`), keeps every byte of its file but padding and truncation, and names the tokens that begin and
end a document (`tokenizer.special`). It may change text: `changes` names how. For chats there are two more special
tokens (`tokenizer.chat`); a tokenizer without them gets them as its last ids.
"""

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from copy import copy
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, cast

from candlewick.artifacts.manifest import FileEntry, write_durable
from candlewick.errors import TokenizerError
from candlewick.tokenizer.check import (
    BYTE_OF,
    CALL_SETTINGS,
    SPACE,
    Json,
    load_rust,
    parse_object,
    tokenizers_errors,
    validate_tokenizer,
    without_prefix,
)
from candlewick.tokenizer.files import TEMPLATE_JINJA, TOKENIZER_JSON, AddedTokens, read_files, read_vocab_files
from candlewick.tokenizer.files import TOKENIZER_CONFIG_JSON as CONFIG_JSON
from candlewick.tokenizer.special import CHAT_TOKENS, find_roles, template_tokens
from candlewick.tokenizer.template import chatml_templates

_LOSSY = (
    "the tokenizer is lossy: %s; train a new one with `candlewick tokenizer train`, and keep this one only for a "
    "model that was trained with it"
)
_IGNORED = "ignored in the tokenizer: %s, which transformers left there in its last call"

logger = logging.getLogger(__name__)


class Tokenizer:
    """A validated tokenizer. Ids are 0 to `vocab_size` - 1; a foreign tokenizer may lack some of them."""

    def __init__(
        self, json_bytes: bytes, where: str = "the tokenizer", settings: Mapping[str, Any] | None = None
    ) -> None:
        """Read a tokenizer.json and a tokenizer_config.json. Raises TokenizerError with the name `where`."""
        tree = parse_object(json_bytes, where)
        self.ignored = tuple(name for name in CALL_SETTINGS if tree.get(name) is not None)
        """Sections that are no part of the tokenizer: settings of the last call of transformers."""
        if self.ignored:  # written as by tokenizers, so that the same tokenizer without them has the same sha256
            tree |= dict.fromkeys(self.ignored)
            json_bytes = json.dumps(tree, indent=2, ensure_ascii=False).encode(errors="surrogatepass")
        self._properties = properties = validate_tokenizer(tree, where)
        if dropout := tree["model"].get("dropout"):  # ids would differ from one run to the next
            tree["model"]["dropout"] = None
        self._rust = load_rust(tree, where)
        self.roles = roles = find_roles(tree, properties.special, settings or {}, where)
        self._tree, self._template = tree, (settings or {}).get("chat_template")
        self.template = template_tokens(tree)
        """The tokens of a text, $A, with special tokens around it; empty: none."""
        self.special_tokens = dict(properties.special)
        self.json_bytes = json_bytes
        self.encoder_json = json.dumps(tree).encode() if dropout else json_bytes
        """The JSON for encoders: without dropout."""
        self.sha256 = hashlib.sha256(json_bytes).hexdigest()
        self.pattern, self.vocab_size = properties.pattern, properties.size
        self.delimiter, self.delimiter_id = roles.delimiter, properties.special[roles.delimiter]
        self.end_id = None if roles.end is None else properties.special[roles.end]
        """The token after each document; None for Candlewick's tokenizers, which have none."""
        self.padding_id = None if roles.padding is None else properties.special[roles.padding]
        self.stop_ids = tuple(properties.special[token] for token in roles.stops)
        """The tokens that end a generated text. The last one is the delimiter."""
        self.generation: Mapping[str, Any] = {}
        """The entries of generation_config.json of the model that it belongs to."""
        self.missing_bytes, self.changes = properties.missing_bytes, properties.changes
        self.chat_ids: tuple[int, int] | None = None  # of CHAT_TOKENS
        if properties.special.keys() >= set(CHAT_TOKENS):
            self.chat_ids = cast("tuple[int, int]", tuple(map(properties.special.get, CHAT_TOKENS)))

    @classmethod
    def load(cls, path: Path) -> "Tokenizer":
        """Load a tokenizer.json, or from a folder that file, else vocab.json and merges.txt.

        Raises TokenizerError if it cannot be used. Tells, once, of bytes without a token and of what is ignored.
        """
        return _tell_differences(cls(*read_files(path)))

    @classmethod
    def from_files(
        cls, vocab: Path, merges: Path, special_tokens: AddedTokens = None, *, add_prefix_space: bool = True
    ) -> "Tokenizer":
        """Load vocab.json and merges.txt of a byte-level BPE. Raises TokenizerError; warns as `load`.

        `special_tokens` are names, or a file of names (`files.read_special_tokens`); None: the known names.
        """
        files = read_vocab_files(vocab, merges, special_tokens, add_prefix_space=add_prefix_space)
        return _tell_differences(cls(*files))

    @cached_property
    def continuation_json(self) -> bytes | None:
        """The JSON for a continued text, without a space before it; None if there is no difference."""
        return json.dumps(without_prefix(self._tree)).encode() if self._properties.adds_space else None

    def with_chat_tokens(self) -> "Tokenizer":
        """Return this tokenizer if it has the chat tokens, else a copy with the missing tokens as its last ids."""
        names = self.roles.names
        if self.chat_ids is not None:
            if self._template is None:
                return self
            return Tokenizer(self.json_bytes, settings=names).with_generation(self.generation)
        tree = json.loads(self.json_bytes)
        existing = {token["content"] for token in tree["added_tokens"]}
        next_id = self.vocab_size
        for content in CHAT_TOKENS:
            if content not in existing:
                number = tree["model"]["vocab"].get(content, next_id)
                next_id += number == next_id
                token = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
                tree["added_tokens"].append({"id": number, "content": content, **token, "special": True})
        json_bytes = json.dumps(tree, indent=2, ensure_ascii=False).encode()
        return Tokenizer(json_bytes, settings=names).with_generation(self.generation)

    def with_generation(self, settings: Mapping[str, Any]) -> "Tokenizer":
        """Return this tokenizer for a model with these entries of generation_config.json."""
        eos = settings.get("eos_token_id")
        ends = [
            i for i in (eos if isinstance(eos, list) else [eos]) if type(i) is int and 0 <= i < self.vocab_size
        ]
        tokenizer = copy(self)
        tokenizer.generation = settings
        others = dict.fromkeys(i for i in (*ends, *self.stop_ids) if i != self.delimiter_id)
        tokenizer.stop_ids = (*others, self.delimiter_id)
        return tokenizer

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text, without special tokens. Raises TokenizerError for half a surrogate pair."""
        with tokenizers_errors("the tokenizer", "fails with this text"):
            try:
                return self._rust.encode(text, add_special_tokens=False).ids
            except TypeError:
                raise surrogate_error([text]) from None

    def decode(self, ids: Sequence[int], *, skip_special: bool = True) -> str:
        """Return the text of ids; bytes that are not UTF-8 become U+FFFD. Raises TokenizerError for a wrong id."""
        wrong = next((i for i in ids if not 0 <= i < self.vocab_size), None)
        if wrong is not None:
            raise TokenizerError(f"there is no token {wrong}", f"ids are 0 to {self.vocab_size - 1}")
        with tokenizers_errors("the tokenizer", "fails with these ids"):
            return self._rust.decode(list(ids), skip_special_tokens=skip_special)

    def decode_continuation(self, ids: Sequence[int]) -> str:
        """Return the text of ids that continue a text, without special tokens; a first space stays."""
        special = set(self.special_tokens.values())
        return b"".join(self.token_bytes(i) for i in ids if i not in special).decode(errors="replace")

    def token_bytes(self, token: int) -> bytes:
        """Return the bytes of a token: of a special token its name, of an id without a token none."""
        text = self._rust.id_to_token(token) or ""
        if self._properties.is_byte_level:
            return bytes(BYTE_OF[char] for char in text) if set(text) <= BYTE_OF.keys() else text.encode()
        if len(text) == 6 and text.startswith("<0x") and text.endswith(">"):
            return bytes.fromhex(text[3:5])
        return text.replace(SPACE, " ").encode()

    def write(self, folder: Path, *, model_max_length: int | None = None) -> list[FileEntry]:
        """Write tokenizer.json, tokenizer_config.json and chat_template.jinja into `folder`, durably."""
        # without this class, readers build a tokenizer from the model's type, with other ids
        config: Json = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
        config |= self.roles.names
        if self._properties.adds_space and self._properties.is_byte_level:
            config["add_prefix_space"] = True  # older readers take it from here
        template, marked = self._template, None
        if self.chat_ids is not None and template in (None, *(chatml := chatml_templates(self.roles))):
            template, marked = chatml
        if template is not None:
            config["chat_template"] = template
        if model_max_length is not None:
            config["model_max_length"] = model_max_length
        text = json.dumps(config, indent=2, ensure_ascii=False) + "\n"
        files = {TOKENIZER_JSON: self.json_bytes, CONFIG_JSON: text.encode()}
        files |= {} if marked is None else {TEMPLATE_JINJA: marked.encode()}
        return [write_durable(folder / name, content) for name, content in files.items()]


def _tell_differences(tokenizer: Tokenizer) -> Tokenizer:
    if tokenizer.ignored:
        _tell_once(tokenizer.sha256, logging.INFO, _IGNORED, " and ".join(tokenizer.ignored))
    if tokenizer.missing_bytes:
        _tell_once(tokenizer.sha256, logging.WARNING, _LOSSY, tokenizer.changes[0])
    elif tokenizer.changes:
        logger.debug("with this tokenizer, %s", "; ".join(tokenizer.changes))
    return tokenizer


@lru_cache(maxsize=64)
def _tell_once(_sha256: str, level: int, message: str, detail: str) -> None:
    logger.log(level, message, detail)


def surrogate_error(texts: Sequence[str]) -> TokenizerError:
    """Return the error for the first text without a UTF-8 form, with its position."""
    for number, text in enumerate(texts):
        index = next((i for i, char in enumerate(text) if "\ud800" <= char <= "\udfff"), None)
        if index is not None:
            name, char = f"text {number}" if len(texts) > 1 else "the text", f"U+{ord(text[index]):04X}"
            return TokenizerError(
                f"{name} has half a surrogate pair ({char}) at character {index}, so no UTF-8 form",
                "remove or replace it",
            )
    return TokenizerError("the input is not text", "give strings")
