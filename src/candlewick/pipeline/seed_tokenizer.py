"""A tokenizer configuration of the seed -> the tokenizer that it describes, and both manifests.

    ARTIFACTS_DIR/   tokenizer.json  tokenizer_config.json  vocab.json  merges.txt
                     manifest.json        ours, see `artifacts`
                     seed_manifest.json   the seed's: cfg_hash, created_at, token_count, corpora, ...

`artifacts.manifest` may give the latter another name, and the other names may say where copies are wanted. Lines are
read as the seed reads them: files shuffled, then lines within chunks of 2,048, of which `max_lines` takes the first.
With `num_threads` the training runs in a process of its own: threads are counted when a process first asks.
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

from candlewick.artifacts import Manifest, canonical_json, make_directory, replace_durable
from candlewick.config import DataConfig
from candlewick.data.recipe import Recipe, once
from candlewick.data.sources import Corpus, open_corpus
from candlewick.data.workers import start_worker
from candlewick.errors import ConfigError
from candlewick.pipeline.tokenizer_stage import first_documents
from candlewick.tokenizer.artifact import KIND, write_artifact
from candlewick.tokenizer.bpe import Tokenizer
from candlewick.tokenizer.encoder import batched
from candlewick.tokenizer.files import MERGES_TXT, TOKENIZER_JSON, VOCAB_JSON, byte_level, put_around
from candlewick.tokenizer.seed import SeedTokenizerConfig, SeedTraining, open_seed_tokenizer, place
from candlewick.tokenizer.train import MAX_RUN_CHARS, MAX_TRAIN_BYTES, TrainingText, TrainReport, fit

SEED_MANIFEST = "seed_manifest.json"
_CHUNK_LINES = 2048
_CHUNK_CHARS = 1 << 24
_FILES = {"tokenizer_json": TOKENIZER_JSON, "vocab_json": VOCAB_JSON, "merges_txt": MERGES_TXT}


def train_seed_tokenizer(config: SeedTokenizerConfig) -> tuple[Manifest, bool]:
    """Return the tokenizer at `config.artifacts.dir`, and whether it was there; else train it.

    Raises ConfigError without `training`, DataError for text that cannot be read, ArtifactError if something else
    is at that place.
    """
    training = config.training
    if training is None:
        raise ConfigError("there is no text to train on", "set training.inputs")
    corpus = open_corpus(training.inputs, DataConfig(documents="line"))
    settings = config.model_dump(mode="json", exclude={"artifacts": True, "training": {"inputs", "num_threads"}})
    recipe = Recipe(KIND, {"corpus": corpus.fingerprint}, settings)
    output = config.artifacts.dir

    def make(_: Path) -> Manifest:
        tokenizer, report = _train(config, training, corpus)
        return write_artifact(tokenizer, report, (), output, inputs=recipe.inputs, config=recipe.config)

    manifest, reused = once(output, recipe, make)
    for name, default in _FILES.items():
        copy = place(config, name, default)
        if not copy.exists() or copy != output / default:
            _write(copy, (output / default).read_bytes())
    tokenizer = open_seed_tokenizer(config)
    described = output / (config.artifacts.manifest or SEED_MANIFEST)
    if described == output / "manifest.json":
        described = output / SEED_MANIFEST
    if not reused or not described.exists():
        _write(described, canonical_json(_describe(config, training, corpus, tokenizer)))
    return manifest, reused


def _write(path: Path, content: bytes) -> None:
    make_directory(path.parent)
    replace_durable(path, content)


def _train(config: SeedTokenizerConfig, training: SeedTraining, corpus: Corpus) -> tuple[Tokenizer, TrainReport]:
    if training.num_threads is None:
        content, report = _fit(config, training, corpus)
    else:
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(1, context, _limit_threads, (training.num_threads,)) as pool:
            content, report = pool.submit(_fit, config, training, corpus).result()
    return Tokenizer(content), report


def _limit_threads(count: int) -> None:
    start_worker()
    os.putenv("RAYON_NUM_THREADS", str(count))


def _fit(config: SeedTokenizerConfig, training: SeedTraining, corpus: Corpus) -> tuple[bytes, TrainReport]:
    wanted, options = config.model, config.pretokenizer
    model = models.BPE(dropout=wanted.dropout, byte_fallback=wanted.byte_fallback_on_decode)
    rust = byte_level(model, **options.model_dump())
    rust.add_special_tokens(list(wanted.special_tokens))
    if any(config.around):
        pair = config.postprocessor is not None and config.postprocessor.pair_template
        put_around(rust, *config.around, pair=pair)
    reader = TrainingText(MAX_TRAIN_BYTES, None, None)
    lines = _lines(corpus, training, None if options.use_regex else MAX_RUN_CHARS)
    tokenizer, report = fit(
        rust,
        reader,
        lines,
        vocab_size=wanted.vocab_size,
        min_frequency=wanted.min_frequency,
        special=wanted.special_tokens,
    )
    return tokenizer.json_bytes, report


def _lines(corpus: Corpus, training: SeedTraining, longest: int | None) -> Iterator[str]:
    """Yield the lines in the order of the seed; without a pattern that cuts them, in pieces of `longest`."""
    files, choose = list(corpus.files), random.Random(training.seed)
    if training.shuffle:
        choose.shuffle(files)
    ordered = Corpus(tuple(files), corpus.config)
    lines = (document.text for document in first_documents(ordered, training.max_lines))
    for chunk in batched(lines, len, _CHUNK_CHARS, _CHUNK_LINES):
        if training.shuffle:
            choose.shuffle(chunk)
        for line in chunk:
            size = longest or max(len(line), 1)
            yield from (line[at : at + size] for at in range(0, len(line), size))


def _describe(
    config: SeedTokenizerConfig, training: SeedTraining, corpus: Corpus, tokenizer: Tokenizer
) -> dict[str, object]:
    """Return both of the seed's manifests, which it wrote under one name, the second over the first."""
    digest, now = hashlib.sha256(canonical_json(config.model_dump(mode="json"))), int(time.time())
    for path in (place(config, name, default) for name, default in _FILES.items()):
        digest.update(str(path).encode() + path.read_bytes())
    files = zip(corpus.files, corpus.hashes, strict=True)
    return {
        "cfg_hash": digest.hexdigest(),
        "created_at": f"unix:{now}",
        "token_count": tokenizer.vocab_size,
        "version": 1,
        "generated_at_unix": now,
        "trained": True,
        "force_retrain": False,
        "vocab_size": config.model.vocab_size,
        "tokenizer_seed": training.seed,
        "tokenizer_max_lines": training.max_lines,
        "corpora": [{"path": str(f.path), "size_bytes": f.bytes, "sha256": sha} for f, sha in files],
    }
