"""The tokenizer stage: a corpus and the tokenizer's settings -> a tokenizer artifact, unless it is there already.

Tokenizers of other programs have no manifest, or one of theirs.

Of a hundred pieces (at most 64 KiB and a hundredth of the corpus) one is kept out of training and measured on; of
a large corpus fewer, about 200 pieces and 2 MB; below some 50 KB none.
"""

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from typing import cast

from candlewick.artifacts.build import ProgressCallback, Recipe, build_once
from candlewick.artifacts.manifest import MANIFEST, Manifest, read_bounded, read_manifest, require_replaceable
from candlewick.config import TokenizerConfig
from candlewick.data.text.corpus import Corpus
from candlewick.data.text.documents import Document
from candlewick.data.text.downloads import download
from candlewick.data.text.sample import sample_documents
from candlewick.errors import ConfigError
from candlewick.tokenizer.artifact import KIND, VERSION, write_artifact
from candlewick.tokenizer.files import (
    MERGES_TXT,
    SPECIAL_TOKENS_TXT,
    TOKENIZER_CONFIG_JSON,
    TOKENIZER_JSON,
    VOCAB_JSON,
)
from candlewick.tokenizer.train import CHUNK_CHARS, PATTERN, split_text, train_tokenizer

_EVERY = 100
_MAX_HELDOUT = 200
_MAX_HELDOUT_BYTES = 2_000_000
_MIN_PIECE_CHARS = 1 << 10
_FILES = {
    *(TOKENIZER_JSON, VOCAB_JSON, MERGES_TXT, MANIFEST, TOKENIZER_CONFIG_JSON),
    *(SPECIAL_TOKENS_TXT, "special_tokens_map.json", "seed_manifest.json"),
}
"""Names of the files that programs write beside a tokenizer."""


def holds_tokenizer(folder: Path) -> bool:
    """Return whether a folder holds a tokenizer of any program."""
    return (folder / TOKENIZER_JSON).is_file() or all((folder / n).is_file() for n in (VOCAB_JSON, MERGES_TXT))


def own_manifest(folder: Path) -> Manifest | None:
    """Return the manifest of a tokenizer artifact; None for a tokenizer of another program.

    Raises ArtifactError for a damaged one.
    """
    try:
        content: object = json.loads(read_bounded(folder / MANIFEST))
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError):
        content = None  # read_manifest says what is wrong
    if isinstance(content, dict) and content and cast("dict[str, object]", content).get("kind") != KIND:
        return None
    return read_manifest(folder, KIND)


def remove_tokenizer(folder: Path) -> None:
    """Remove a tokenizer of any program. Raises ArtifactError for a folder that holds anything else."""
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else set[str]()
    if not (holds_tokenizer(folder) and names <= _FILES and own_manifest(folder) is None):
        require_replaceable(folder, KIND)
    shutil.rmtree(folder, ignore_errors=True)


def make_tokenizer(
    text: Corpus, config: TokenizerConfig, output: Path, *, progress: ProgressCallback | None = None
) -> tuple[Manifest, bool]:
    """Return the tokenizer artifact at `output`, and whether it was there; else train it on opened text.

    `progress` is called with bytes read and bytes to read; they are equal when the merging begins. Raises
    DataError, ConfigError if the settings name a finished tokenizer, ArtifactError if something else is at
    `output`.
    """
    for name in ("tokenizer_json", "vocab"):
        if (path := getattr(config, name)) is not None:
            raise ConfigError(
                f"tokenizer.{name}={path} is a finished tokenizer",
                f"use it, or set tokenizer.{name} to null to train one",
            )
    recipe = tokenizer_recipe(text, config)

    def make(partial: Path) -> Manifest:
        folder = partial / "fetched"
        try:
            chosen = enumerate(_first_files(text, config).files)
            files = tuple(download(file, folder / str(number), text.reading) for number, file in chosen)
            return _train(replace(text, files=files), config, recipe, output, progress)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    return build_once(output, recipe, make)


def _first_files(text: Corpus, config: TokenizerConfig) -> Corpus:
    """Return the first files of text of the Hub, up to `max_train_bytes`: enough to train a tokenizer on."""
    if text.is_local:
        return text
    before = accumulate((file.bytes for file in text.files), initial=0)
    files = zip(text.files, before, strict=False)
    return replace(text, files=tuple(file for file, size in files if size < config.max_train_bytes))


def tokenizer_recipe(text: Corpus, config: TokenizerConfig) -> Recipe:
    """Return what decides the result: the text, how it is read, and the settings."""
    others = {"tokenizer_json", "vocab", "merges", "special_tokens"}
    others |= {"max_train_lines"} if config.max_train_lines is None else set()
    training = config.model_dump(mode="json", exclude=others)
    inputs = {"corpus": _first_files(text, config).fingerprint}
    return Recipe(KIND, inputs, {"pattern": PATTERN, **text.reading.identity(), **training}, VERSION)


def _train(
    corpus: Corpus, config: TokenizerConfig, recipe: Recipe, output: Path, progress: ProgressCallback | None
) -> Manifest:
    """Train on a corpus of this disk, and write the artifact."""
    num_documents = num_bytes = 0
    for document in _documents(corpus, config):
        num_documents += document.starts_document
        num_bytes += len(document.text) if document.text.isascii() else len(document.text.encode())
    every = max(_EVERY, num_documents // _MAX_HELDOUT, num_bytes // _MAX_HELDOUT_BYTES)
    length = min(max(num_bytes // _EVERY, _MIN_PIECE_CHARS), CHUNK_CHARS)
    heldout: list[str] = []

    def training_pieces() -> Iterator[str]:
        documents = _documents(corpus, config)
        pieces = (piece for document in documents for piece in split_text(document.text, length))
        for number, piece in enumerate(pieces):
            if number % every == every // 2:
                heldout.append(piece)
            else:
                yield piece

    limit = min(num_bytes, config.max_train_bytes)
    tokenizer, report = train_tokenizer(
        training_pieces(),
        vocab_size=config.vocab_size,
        min_frequency=config.min_frequency,
        max_train_bytes=config.max_train_bytes,
        total_bytes=num_bytes,
        progress=None if progress is None else lambda done: progress(min(done, limit), limit),
    )
    return write_artifact(tokenizer, report, heldout, output, recipe)


def _documents(corpus: Corpus, config: TokenizerConfig) -> Iterator[Document]:
    """Yield the text to train on: no more of a large corpus is read than is taken."""
    if config.max_train_lines is not None:
        return first_documents(corpus, config.max_train_lines)
    return sample_documents(corpus, config.max_train_bytes + config.max_train_bytes // _EVERY)


def first_documents(corpus: Corpus, limit: int | None) -> Iterator[Document]:
    """Yield the first documents of a corpus, each with all its parts; None: all."""
    count = 0
    for document in corpus.documents():
        count += document.starts_document
        if limit is not None and count > limit:
            return
        yield document
