"""The tokenizer stage: a corpus and the tokenizer's settings -> a tokenizer artifact, unless it is there already.

Of a hundred pieces (at most 64 KiB and a hundredth of the corpus) one is kept out of training and measured on; of
a large corpus fewer, about 200 pieces and 2 MB; below some 50 KB none.
"""

import shutil
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import accumulate
from pathlib import Path

from candlewick.artifacts.build import ProgressCallback, Recipe, build_once
from candlewick.artifacts.manifest import Manifest
from candlewick.config import TokenizerConfig
from candlewick.data.text.corpus import Corpus
from candlewick.data.text.documents import Document
from candlewick.data.text.source_files import SourceFiles
from candlewick.errors import ConfigError
from candlewick.tokenizer.artifact import KIND, write_artifact
from candlewick.tokenizer.train import CHUNK_CHARS, PATTERN, split_text, train_tokenizer

_EVERY = 100
_MAX_HELDOUT = 200
_MAX_HELDOUT_BYTES = 2_000_000
_MIN_PIECE_CHARS = 1 << 10


def make_tokenizer(
    text: Corpus | SourceFiles, config: TokenizerConfig, output: Path, *, progress: ProgressCallback | None = None
) -> tuple[Manifest, bool]:
    """Return the tokenizer artifact at `output`, and whether it was there; else train it on opened text.

    `progress` is called with bytes read and bytes to read; they are equal when the merging begins. Raises
    DataError, ConfigError if the settings name a finished tokenizer, ArtifactError if something else is at
    `output`.
    """
    for name in ("tokenizer_json", "vocab"):
        if (finished := getattr(config, name)) is not None:
            raise ConfigError(
                f"tokenizer.{name}={finished} is a finished tokenizer",
                f"use it, or set tokenizer.{name} to null to train one",
            )
    text = _first_files(text, config.max_train_bytes)
    recipe = tokenizer_recipe(text, config)

    def make(partial: Path) -> Manifest:
        with _at_hand(text, partial / "fetched") as corpus:
            return _make(corpus, config, recipe, output, progress)

    return build_once(output, recipe, make)


def _first_files(text: Corpus | SourceFiles, max_bytes: int) -> Corpus | SourceFiles:
    """Return what a tokenizer is trained on: all of the text; of the Hub the first files that are enough of it."""
    if isinstance(text, Corpus):
        return text
    before = accumulate((file.bytes for file in text.files), initial=0)
    files = tuple(file for file, size in zip(text.files, before, strict=False) if size < max_bytes)
    return replace(text, files=files)


@contextmanager
def _at_hand(text: Corpus | SourceFiles, folder: Path) -> Generator[Corpus]:
    """Yield the text with all of its files on this disk; what was fetched goes afterwards."""
    if isinstance(text, Corpus):
        yield text
        return
    try:
        yield text.download_all(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _make(
    corpus: Corpus, config: TokenizerConfig, recipe: Recipe, output: Path, progress: ProgressCallback | None
) -> Manifest:
    num_documents, num_bytes = _count(corpus, config.max_train_lines)
    every = max(_EVERY, num_documents // _MAX_HELDOUT, num_bytes // _MAX_HELDOUT_BYTES)
    heldout: list[str] = []
    limit = min(num_bytes, config.max_train_bytes)
    tokenizer, report = train_tokenizer(
        _hold_out(_pieces(corpus, num_bytes, config.max_train_lines), every, heldout),
        vocab_size=config.vocab_size,
        min_frequency=config.min_frequency,
        max_train_bytes=config.max_train_bytes,
        total_bytes=num_bytes,
        progress=None if progress is None else lambda done: progress(min(done, limit), limit),
    )
    return write_artifact(tokenizer, report, heldout, output, inputs=recipe.inputs, config=recipe.config)


def tokenizer_recipe(text: Corpus | SourceFiles, config: TokenizerConfig) -> Recipe:
    """Return what decides the result: the text, how it is read, and the settings."""
    corpus = _first_files(text, config.max_train_bytes)
    reading = {"documents", "text_field", "bad_utf8"}
    if corpus.config.format == "chat":
        reading = {"format", "messages_field", "bad_utf8"}
    read = corpus.config.model_dump(mode="json", include=reading)
    others = {"tokenizer_json", "vocab", "merges", "special_tokens"}
    others |= {"max_train_lines"} if config.max_train_lines is None else set()
    training = config.model_dump(mode="json", exclude=others)
    return Recipe(KIND, {"corpus": corpus.fingerprint}, {"pattern": PATTERN, **read, **training})


def first_documents(corpus: Corpus, limit: int | None) -> Iterator[Document]:
    """Yield the first documents of a corpus, each with all its parts; None: all."""
    begun = 0
    for document in corpus.documents():
        begun += document.starts_document
        if limit is not None and begun > limit:
            return
        yield document


def _count(corpus: Corpus, limit: int | None) -> tuple[int, int]:
    documents = size = 0
    for document in first_documents(corpus, limit):
        documents += document.starts_document
        size += len(document.text) if document.text.isascii() else len(document.text.encode())
    return documents, size


def _pieces(corpus: Corpus, num_bytes: int, limit: int | None) -> Iterator[str]:
    length = min(max(num_bytes // _EVERY, _MIN_PIECE_CHARS), CHUNK_CHARS)
    for document in first_documents(corpus, limit):
        yield from split_text(document.text, length)


def _hold_out(pieces: Iterator[str], every: int, heldout: list[str]) -> Iterator[str]:
    """Pass pieces on, but for one of so many, which goes into `heldout`."""
    for number, piece in enumerate(pieces):
        if number % every == every // 2:
            heldout.append(piece)
        else:
            yield piece
