"""Training of a byte-level BPE tokenizer on a stream of texts. Equal texts and settings give equal bytes.

    texts -> chunks of at most 64 KiB -> counts of pre-tokens (Rust) -> merges, most frequent pair first
             (cut where the pattern cuts, so the chunks have the pre-tokens of the text)

Memory is bounded: the trainer reads ahead 256 chunks and keeps counts, never text. Its time grows with the square
of a pre-token's length, so runs of more than 512 letters (a genome) are cut as well. It counts pairs in 32 bits,
which 2 GiB of text cannot overflow, so more is refused. Of a larger corpus, chunks are taken evenly.
arXiv:1508.07909.
"""

import hashlib
import logging
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from tokenizers import Tokenizer as RustTokenizer
from tokenizers import models, trainers
from tokenizers import pre_tokenizers as pre

from candlewick.errors import ConfigError, TokenizerError
from candlewick.tokenizer.bpe import Tokenizer, surrogate_error
from candlewick.tokenizer.check import native_panics
from candlewick.tokenizer.files import byte_level
from candlewick.tokenizer.patterns import PATTERNS
from candlewick.tokenizer.special import DELIMITER, PADDING

PATTERN = "qwen2"
CHUNK_CHARS = 1 << 16
MAX_TRAIN_BYTES = (1 << 31) - 1
MAX_RUN_CHARS = 512
_REPORT_BYTES = 1 << 20

# the pattern always cuts after a line end before something visible, and between a word and a space
_CUT = re.compile(r"(?<=\n)(?=\S)|(?<=\S)(?= )")
_LONG_SPACE = re.compile(rf"\s{{{MAX_RUN_CHARS}}}")
_LONG_RUN = re.compile(rf"[^\W\d_]{{{MAX_RUN_CHARS}}}|(?:[^\w\s]|_){{{MAX_RUN_CHARS}}}|\s{{{MAX_RUN_CHARS}}}")

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TrainReport:
    """The text of a training, and the size of the vocabulary."""

    requested_vocab_size: int
    vocab_size: int
    texts: int
    bytes: int
    corpus_sha256: str
    seconds: float

    @property
    def too_small(self) -> bool:
        """Whether the text had too few frequent pairs for the requested vocabulary."""
        return self.vocab_size < self.requested_vocab_size


def train_tokenizer(
    texts: Iterable[str],
    *,
    vocab_size: int,
    min_frequency: int = 2,
    max_train_bytes: int = 1 << 30,
    total_bytes: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> tuple[Tokenizer, TrainReport]:
    """Train on at most `max_train_bytes` of UTF-8: evenly of `total_bytes`, or the first if that is None.

    `progress` is called with the bytes read so far, and with `max_train_bytes` when the merging begins. Raises
    ConfigError for sizes out of range, TokenizerError without text. Too small a text for the vocabulary is in the
    report, with a warning.
    """
    if not 0 < max_train_bytes <= MAX_TRAIN_BYTES:
        raise ConfigError(
            f"max_train_bytes={max_train_bytes} is not in 1 to {MAX_TRAIN_BYTES}: pairs are counted in 32 bits",
            "lower tokenizer.max_train_bytes; the text is then taken evenly from the corpus",
        )
    reader = TrainingText(max_train_bytes, total_bytes, progress)
    rust = byte_level(models.BPE(), PATTERNS[PATTERN], add_prefix_space=False, use_regex=False)
    special = (DELIMITER, PADDING)
    return train_bpe(rust, reader, texts, vocab_size=vocab_size, min_frequency=min_frequency, special=special)


def train_bpe(
    rust: RustTokenizer,
    reader: "TrainingText",
    texts: Iterable[str],
    *,
    vocab_size: int,
    min_frequency: int,
    special: Sequence[str],
) -> tuple[Tokenizer, TrainReport]:
    """Train a byte-level tokenizer on the chunks that `reader` takes of the texts; see `train_tokenizer`."""
    start, always = time.monotonic(), 256 + len(special)
    if vocab_size < always:
        raise ConfigError(
            f"vocab_size={vocab_size} is too small: 256 bytes and {len(special)} special tokens are always in",
            f"set vocab_size to {always} or more",
        )
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=min_frequency,
        special_tokens=list(special),
        initial_alphabet=pre.ByteLevel.alphabet(),
        show_progress=False,
    )
    with native_panics("the tokenizer", "cannot be trained"):
        rust.train_from_iterator(reader.read(texts), trainer)
    if not reader.bytes:
        raise TokenizerError("there is no text to train a tokenizer on", "check the sources")
    tokenizer = Tokenizer(rust.to_str(pretty=True).encode())
    size, seconds = tokenizer.vocab_size, time.monotonic() - start
    report = TrainReport(vocab_size, size, reader.texts, reader.bytes, reader.digest.hexdigest(), seconds)
    if report.too_small:
        logger.warning(
            "the text is too small for %d tokens: only %d pairs occur at least %d times, the vocabulary has %d",
            *(vocab_size, tokenizer.vocab_size - always, min_frequency, tokenizer.vocab_size),
        )
    return tokenizer, report


class TrainingText:
    """Takes chunks to train on from a stream of texts; counts and hashes them."""

    def __init__(self, limit: int, total: int | None, progress: Callable[[int], None] | None) -> None:
        self._limit, self._total, self._report = limit, total, progress or (lambda _: None)
        self.texts = self.bytes = 0
        self.digest = hashlib.sha256()

    def read(self, texts: Iterable[str]) -> Iterator[str]:
        """Yield the chunks to train on. Raises TokenizerError for half a surrogate pair in a text."""
        seen = 0
        for chunk in self._chunks(texts):
            try:
                raw = chunk.encode()
            except UnicodeEncodeError:
                raise surrogate_error([chunk]) from None
            # after any part of the corpus, the same share of it has been taken
            if self._total is None or self.bytes * self._total <= seen * self._limit:
                text = raw[: self._limit - self.bytes].decode(errors="ignore")
                kept = text.encode()
                self.bytes += len(kept)
                self.digest.update(len(kept).to_bytes(8, "little") + kept)
                yield text
            if self._limit - self.bytes < 4:  # there may be no room for another character
                break
            seen += len(raw)
        self._report(self._limit)

    def _chunks(self, texts: Iterable[str]) -> Iterator[str]:
        reported = 0
        for text in texts:
            self.texts += 1
            yield from split_text(text)
            if self.bytes >= reported + _REPORT_BYTES:
                reported = self.bytes
                self._report(reported)


def split_text(text: str, limit: int = CHUNK_CHARS) -> Iterator[str]:
    """Cut a text into chunks of at most `limit` characters, near the end where the pattern cuts too."""
    start = 0
    while len(text) - start > limit:
        # cuts are searched from the middle on, so that a chunk is never short
        cuts = [match.start() for match in _CUT.finditer(text, start + max(limit // 2, 1), start + limit)]
        stop = cuts[-1] if cuts else start + limit
        yield from _split_runs(text[start:stop])
        start = stop
    yield from _split_runs(text[start:])


def _split_runs(chunk: str) -> Iterator[str]:
    start = 0
    longest = max(map(len, chunk.split()), default=0)
    if longest >= MAX_RUN_CHARS or _LONG_SPACE.search(chunk):  # much faster than searching runs in all text
        for match in _LONG_RUN.finditer(chunk):
            yield chunk[start : match.end()]
            start = match.end()
    if start < len(chunk):
        yield chunk[start:]
