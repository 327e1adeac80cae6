"""Train the tokenizer of a tokenizer configuration of transformer_candle, and write both manifests.

    ARTIFACTS_DIR/   tokenizer.json  tokenizer_config.json  vocab.json  merges.txt
                     manifest.json        Candlewick's, see `artifacts.manifest`
                     seed_manifest.json   transformer_candle's: cfg_hash, created_at, token_count, corpora, ...

`artifacts` may name copies of the files, and the second manifest. That manifest contains the time, so Candlewick's
does not list it. Lines are read as transformer_candle read them: files are shuffled, the first `max_lines` of all
lines are taken, and those are shuffled within chunks of 2,048. With `num_threads` the training runs in another
process, because the library reads the number of threads once per process.
"""

import hashlib
import multiprocessing
import os
import random
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from tokenizers import models

from candlewick.artifacts.build import Recipe, build_once
from candlewick.artifacts.manifest import MANIFEST, Manifest, canonical_json, make_directory, replace_durable
from candlewick.compat.candle.tokenizer import (
    FILES,
    CandleTokenizerConfig,
    TokenizerTraining,
    open_candle_tokenizer,
)
from candlewick.config import DataConfig
from candlewick.config.tree import Tree
from candlewick.data.text.corpus import Corpus, open_corpus
from candlewick.errors import ConfigError
from candlewick.runs.tokenizer import first_documents
from candlewick.tokenizer.artifact import KIND, write_artifact
from candlewick.tokenizer.bpe import Tokenizer
from candlewick.tokenizer.encoder import batched
from candlewick.tokenizer.files import byte_level, set_post_processor
from candlewick.tokenizer.train import MAX_RUN_CHARS, MAX_TRAIN_BYTES, TrainingText, TrainReport, train_bpe

CANDLE_MANIFEST = "seed_manifest.json"
_CHUNK_LINES = 2048
_CHUNK_CHARS = 1 << 24


def train_candle_tokenizer(config: CandleTokenizerConfig, output: Path | None = None) -> tuple[Manifest, bool]:
    """Train the tokenizer into `output`, by default `artifacts.dir`, unless it is there; return whether it was.

    Raises ConfigError without `training`, DataError for unreadable text, ArtifactError if the folder holds
    something else.
    """
    if (training := config.training) is None:
        raise ConfigError("there is no text to train on", "set training.inputs")
    corpus = open_corpus(training.inputs, DataConfig(documents="line"))
    folder = output or config.artifacts.dir
    settings = config.model_dump(mode="json", exclude={"artifacts": True, "training": {"inputs", "num_threads"}})

    def make(_: Path) -> Manifest:
        if training.num_threads is None:
            content, report = _fit(config, training, corpus)
        else:
            limit = ("RAYON_NUM_THREADS", str(training.num_threads))
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), os.putenv, limit) as pool:
                content, report = pool.submit(_fit, config, training, corpus).result()
        return write_artifact(Tokenizer(content), report, (), folder, recipe)

    recipe = Recipe(KIND, {"corpus": corpus.fingerprint}, settings)
    manifest, reused = build_once(folder, recipe, make)
    names = config.artifacts.model_dump(include=set(FILES), exclude_none=True)
    for name, copy in names.items():
        _write(folder / copy, (folder / FILES[name]).read_bytes())
    open_candle_tokenizer(config, folder)
    candle_manifest = folder / (config.artifacts.manifest or MANIFEST)
    if candle_manifest.name == MANIFEST:
        candle_manifest = candle_manifest.with_name(CANDLE_MANIFEST)
    if not reused or not candle_manifest.exists():
        paths = [folder / names.get(name, default) for name, default in FILES.items()]
        _write(candle_manifest, canonical_json(_describe(config, corpus, paths, manifest)))
    return manifest, reused


def _write(path: Path, content: bytes) -> None:
    make_directory(path.parent)
    replace_durable(path, content)


def _fit(config: CandleTokenizerConfig, training: TokenizerTraining, corpus: Corpus) -> tuple[bytes, TrainReport]:
    wanted, options, around = config.model, config.pretokenizer, config.postprocessor
    model = models.BPE(dropout=wanted.dropout, byte_fallback=wanted.byte_fallback_on_decode)
    rust = byte_level(model, **options.model_dump())
    rust.add_special_tokens(list(wanted.special_tokens))
    if around is not None and any(around.tokens):
        set_post_processor(rust, *around.tokens, pair=around.pair_template)
    lines = _lines(corpus, training, MAX_TRAIN_BYTES if options.use_regex else MAX_RUN_CHARS)
    sizes = {"vocab_size": wanted.vocab_size, "min_frequency": wanted.min_frequency}
    reader = TrainingText(MAX_TRAIN_BYTES, None, None)
    tokenizer, report = train_bpe(rust, reader, lines, **sizes, special=wanted.special_tokens)
    return tokenizer.json_bytes, report


def _lines(corpus: Corpus, training: TokenizerTraining, max_chars: int) -> Iterator[str]:
    """Yield the lines in the order of transformer_candle, in pieces of at most `longest`."""
    files, generator = list(corpus.files), random.Random(training.seed)
    if training.shuffle:
        generator.shuffle(files)
    documents = first_documents(Corpus(tuple(files), corpus.config), training.max_lines)
    for chunk in batched((document.text for document in documents), len, _CHUNK_CHARS, _CHUNK_LINES):
        if training.shuffle:
            generator.shuffle(chunk)
        for line in chunk:
            yield from (line[at : at + max_chars] for at in range(0, len(line), max_chars))


def _describe(config: CandleTokenizerConfig, corpus: Corpus, paths: list[Path], manifest: Manifest) -> Tree:
    """Return the keys of both manifests of transformer_candle, which wrote the second over the first."""
    digest = hashlib.sha256(canonical_json(config.model_dump(mode="json")))
    now, training = time.time(), config.training
    for path in paths:
        digest.update(str(path).encode() + path.read_bytes())
    files = zip(corpus.files, corpus.hashes, strict=True)
    return {
        "cfg_hash": digest.hexdigest(),
        "created_at": f"unix:{now:.0f}",
        "token_count": manifest.details["vocab_size"],
        "version": 1,
        "generated_at_unix": int(now),
        "trained": True,
        "force_retrain": False,
        "vocab_size": config.model.vocab_size,
        "tokenizer_seed": training and training.seed,
        "tokenizer_max_lines": training and training.max_lines,
        "corpora": [{"path": str(f.path), "size_bytes": f.bytes, "sha256": sha} for f, sha in files],
    }
