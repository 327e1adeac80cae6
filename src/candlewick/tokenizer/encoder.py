"""A bulk encoder turns many texts into one flat array of ids: fast, or the reference.

    ["ab c", "", "d"]  ->  ids [x y z w] uint32, lengths [3 0 1] int64

`tokenizers` is the reference. `fastokens` gives the same ids some 40 times faster and is used if installed.
In both, special tokens in a text are plain text, and nothing is added.
"""

import importlib
import logging
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer as RustTokenizer

from candlewick.errors import MachineError, TokenizerError
from candlewick.tokenizer.bpe import surrogate_error
from candlewick.tokenizer.check import native_panics, tokenizers_errors

# the reference makes some 100 bytes of objects per byte of text
_BATCH_CHARS = 1 << 18
_BATCH_TEXTS = 1 << 10
# texts on which encoders differ: spaces at the ends, marks, compatibility forms, scripts, names of tokens; by |
_PROBES: str = (
    "| |a| a b  c\n\n d\t|It's 1234\r\n x|e\u0301 \ufb01 \uff21 \u0130\u00c5 \u212b|\u2581a \u2581|\u65e5\u672c"
    "\u3000\u0e44\u0e17 \U0001f44d\U0001f3fd\u200d|\0\x1c\x85\u2028\ufeff\ufffd\U0010ffff|<bos> <s></s><unk>"
    "|a<pad>b <think> c</think>\n<tool_call>|<0x41>"
)

EncodedTexts = tuple[NDArray[np.uint32], NDArray[np.int64]]
Item = TypeVar("Item")

logger = logging.getLogger(__name__)


def make_encoder(tokenizer_json: bytes) -> "ReferenceEncoder | FastEncoder":
    """Return the fastest encoder for the content of a validated tokenizer.json."""
    reference, probes = ReferenceEncoder(tokenizer_json), _PROBES.split("|")
    try:
        fast = FastEncoder(tokenizer_json)
        if not all(map(np.array_equal, fast.encode(probes), reference.encode(probes))):
            raise MachineError("fastokens gives other ids with this tokenizer", "use tokenizers")
    except (MachineError, TokenizerError) as fault:
        logger.warning("encoding with the reference, which is some 40 times slower: %s", fault)
        return reference
    return fast


class ReferenceEncoder:
    """Encodes by `tokenizers`; every other encoder has to give the same ids."""

    name = "tokenizers"

    def __init__(self, tokenizer_json: bytes) -> None:
        self._rust = RustTokenizer.from_str(tokenizer_json.decode())
        self._rust.encode_special_tokens = True

    def encode(self, texts: list[str]) -> EncodedTexts:
        """Return the ids of all texts, and the count of each. Raises TokenizerError for half a surrogate pair."""
        ids: list[NDArray[np.uint32]] = []
        for batch in batched(texts, len, _BATCH_CHARS, _BATCH_TEXTS):
            with tokenizers_errors("the tokenizer", "fails with this text"):
                try:
                    encodings = self._rust.encode_batch_fast(batch, add_special_tokens=False)
                except TypeError:
                    raise surrogate_error(texts) from None
            ids += [np.array(encoding.ids, np.uint32) for encoding in encodings]
        flat = np.concatenate(ids) if ids else np.empty(0, np.uint32)
        return flat, np.array([len(array) for array in ids], np.int64)


def batched(items: Iterable[Item], size_of: Callable[[Item], int], size: int, count: int) -> Iterator[list[Item]]:
    """Yield the items in lists; a list ends with the item that reaches the size or the count."""
    batch: list[Item] = []
    total = 0
    for item in items:
        batch.append(item)
        total += size_of(item)
        if total >= size or len(batch) == count:
            yield batch
            batch, total = [], 0
    if batch:
        yield batch


class FastEncoder:
    """Encodes by `fastokens`. Raises MachineError if it is missing or cannot use the tokenizer."""

    name = "fastokens"

    def __init__(self, tokenizer_json: bytes) -> None:
        try:
            package: Any = importlib.import_module("fastokens")
        except ImportError:
            raise MachineError("fastokens is not installed", "pip install 'candlewick[fast]'") from None
        try:
            with native_panics("fastokens", "cannot use this tokenizer"):
                self._rust = package.Tokenizer.from_json_str(tokenizer_json.decode())
        except (ValueError, TokenizerError) as error:
            raise MachineError(f"fastokens cannot use this tokenizer: {error}", "use tokenizers") from None

    def encode(self, texts: list[str]) -> EncodedTexts:
        """See `ReferenceEncoder`."""
        with tokenizers_errors("the tokenizer", "fails with this text"):
            try:
                ids, ends = self._rust.encode_batch_flat(texts, split_special_tokens=True)
            except UnicodeEncodeError:
                raise surrogate_error(texts) from None
        return np.frombuffer(ids, "<u4"), np.diff(np.frombuffer(ends, "<u8").astype(np.int64))
