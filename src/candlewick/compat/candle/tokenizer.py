"""Read a tokenizer configuration of transformer_candle, and train or open the tokenizer that it names.

    model          vocab_size  min_frequency  dropout  special_tokens  byte_fallback_on_decode
    pretokenizer   add_prefix_space  trim_offsets  use_regex
    postprocessor  add_bos  add_eos  pair_template
    training       inputs  seed  shuffle  max_lines  num_threads
    artifacts      dir  tokenizer_json  vocab_json  merges_txt  manifest

The file is YAML, TOML or JSON. Paths are relative to the file, those of the artifacts to `artifacts.dir`. A
trained tokenizer has all 256 bytes as tokens, so that no byte is lost:

    ARTIFACTS_DIR/   tokenizer.json  tokenizer_config.json  vocab.json  merges.txt
                     manifest.json        Candlewick's, see docs/formats.md
                     seed_manifest.json   transformer_candle's: cfg_hash, created_at, token_count, corpora, ...

`artifacts` may name copies of the files, and the second manifest. That manifest contains the time, so Candlewick's
does not list it. Lines are read as transformer_candle read them: files are shuffled, the first `max_lines` of all
lines are taken, and those are shuffled within chunks of 2,048. With `num_threads` the training runs in another
process, because the library reads the number of threads once per process.
"""

import difflib
import hashlib
import json
import multiprocessing
import os
import random
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, ValidationError, model_validator
from tokenizers import models

from candlewick.artifacts.build import Recipe, build_once
from candlewick.artifacts.manifest import MANIFEST, Manifest, canonical_json, make_directory, replace_durable
from candlewick.config import DataConfig
from candlewick.config.formats import MAX_BYTES, SUFFIXES, line_of, parse
from candlewick.config.load import join_problems
from candlewick.config.section import Count, Fraction, Section, Steps
from candlewick.config.tree import Tree
from candlewick.data.text.corpus import Corpus, content_hash
from candlewick.data.text.find import open_text
from candlewick.errors import ConfigError, TokenizerError
from candlewick.runs.tokenizer import first_documents
from candlewick.tokenizer.artifact import KIND, VERSION, write_artifact
from candlewick.tokenizer.bpe import Tokenizer
from candlewick.tokenizer.encoder import batched
from candlewick.tokenizer.files import MERGES_TXT, TOKENIZER_JSON, VOCAB_JSON, byte_level, set_post_processor
from candlewick.tokenizer.train import MAX_RUN_CHARS, MAX_TRAIN_BYTES, TrainingText, TrainReport, train_bpe

FILES = {"tokenizer_json": TOKENIZER_JSON, "vocab_json": VOCAB_JSON, "merges_txt": MERGES_TXT}
CANDLE_MANIFEST = "seed_manifest.json"
_CHUNK_LINES = 2048
_CHUNK_CHARS = 1 << 24


class TokenizerModel(Section):
    """The vocabulary and its merges."""

    vocab_size: Count
    min_frequency: Count = 2
    dropout: Fraction | None = None
    special_tokens: tuple[Annotated[str, Field(min_length=1)], ...] = Field(min_length=1)
    byte_fallback_on_decode: bool = False


class Pretokenizer(Section):
    """How text is split before merging."""

    add_prefix_space: bool = True
    trim_offsets: bool = True
    use_regex: bool = True


class Postprocessor(Section):
    """Tokens around a text; with `pair_template`, around the second of two texts too."""

    add_bos: bool = True
    add_eos: bool = True
    pair_template: bool = True

    @property
    def tokens(self) -> tuple[str | None, str | None]:
        """The tokens before and after a text."""
        return "<bos>" if self.add_bos else None, "<eos>" if self.add_eos else None


class TokenizerTraining(Section):
    """The training text, read line by line."""

    inputs: tuple[str, ...] = Field(min_length=1)
    seed: Steps = 17
    shuffle: bool = True
    max_lines: Count | None = None
    num_threads: Count | None = None


class Artifacts(Section):
    """The files to write."""

    dir: Path
    tokenizer_json: Path | None = None
    vocab_json: Path | None = None
    merges_txt: Path | None = None
    manifest: Path | None = None


class CandleTokenizerConfig(Section):
    """A tokenizer configuration of transformer_candle."""

    model: TokenizerModel
    pretokenizer: Pretokenizer = Pretokenizer()
    postprocessor: Postprocessor | None = None
    training: TokenizerTraining | None = None
    artifacts: Artifacts

    @model_validator(mode="after")
    def _check(self) -> Self:
        special = self.model.special_tokens
        if len(set(special)) < len(special):
            raise ValueError("model.special_tokens names one twice")
        for name in self.postprocessor.tokens if self.postprocessor else ():
            if name is not None and name not in special:
                raise ValueError(f"postprocessor adds {name}, which model.special_tokens does not name")
        return self


_SECTIONS = (CandleTokenizerConfig, TokenizerModel, Pretokenizer, Postprocessor, TokenizerTraining, Artifacts)
_KEYS = [name for section in _SECTIONS for name in section.model_fields]


def read_tokenizer_config(source: str | None) -> CandleTokenizerConfig | None:
    """Return the tokenizer configuration in a file; None for any other file. Raises ConfigError if it is wrong."""
    path = Path(source or "").expanduser()
    file_format = SUFFIXES.get(path.suffix.lower())
    if file_format is None or not path.is_file() or path.stat().st_size > MAX_BYTES:
        return None
    parsed = parse(path.read_bytes().decode("utf-8-sig", errors="replace"), file_format)
    if not parsed.tree.keys() & {"artifacts", "pretokenizer", "postprocessor"}:
        return None
    config = None
    try:
        config = CandleTokenizerConfig.model_validate_json(json.dumps(parsed.tree))
    except ValidationError as error:
        for detail in error.errors():
            key, message = detail["loc"], detail["msg"].removeprefix("Value error, ")
            if detail["type"] == "extra_forbidden":
                matches = difflib.get_close_matches(str(key[-1]), _KEYS, 1)
                message = f"unknown key{f', did you mean {matches[0]}?' if matches else ''}"
            parsed.report(line_of(parsed.lines, key), key, message)
    if config is None or parsed.problems:
        problems = [(f"{path}:{line}", key or (), message) for line, key, message in parsed.problems]
        raise ConfigError(join_problems(problems), "correct the file")
    folder, artifacts, training = path.absolute().parent, config.artifacts, config.training
    artifacts = artifacts.replaced(dir=folder / artifacts.dir.expanduser())
    if training is not None:
        inputs = [uri if "://" in uri else str(folder / Path(uri).expanduser()) for uri in training.inputs]
        training = training.replaced(inputs=tuple(inputs))
    return config.replaced(artifacts=artifacts, training=training)


def open_candle_tokenizer(config: CandleTokenizerConfig, folder: Path | None = None) -> Tokenizer:
    """Load tokenizer.json, else vocab.json and merges.txt, from `folder`, by default `artifacts.dir`.

    Raises TokenizerError for an unusable tokenizer, or one that differs from the configuration.
    """
    folder = folder or config.artifacts.dir
    tokenizer_json, vocab, merges = (folder / (getattr(config.artifacts, name) or FILES[name]) for name in FILES)
    special, prefix_space = config.model.special_tokens, config.pretokenizer.add_prefix_space
    if tokenizer_json.exists() or not vocab.exists():
        tokenizer = Tokenizer.load(tokenizer_json)
    else:
        tokenizer = Tokenizer.from_files(vocab, merges, special, add_prefix_space=prefix_space)
    missing = [f"it lacks {name}" for name in special if name not in tokenizer.special_tokens]
    if (size := tokenizer.vocab_size) > (limit := config.model.vocab_size + len(special)):
        missing.append(f"it has {size} tokens, more than {limit}")
    if missing:
        raise TokenizerError(f"{folder} is not what the configuration describes: {missing[0]}", "train it again")
    return tokenizer


def train_candle_tokenizer(config: CandleTokenizerConfig, output: Path | None = None) -> tuple[Manifest, bool]:
    """Train the tokenizer into `output`, by default `artifacts.dir`, unless it is there; return whether it was.

    Raises ConfigError without `training`, DataError for unreadable text, ArtifactError if the folder holds
    something else.
    """
    if (training := config.training) is None:
        raise ConfigError("there is no text to train on", "set training.inputs")
    corpus = open_text(training.inputs, DataConfig(documents="line"))
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

    recipe = Recipe(KIND, {"corpus": corpus.fingerprint}, settings, VERSION)
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
        _write(candle_manifest, canonical_json(_candle_manifest(config, corpus, paths, manifest)))
    return manifest, reused


def _write(path: Path, content: bytes) -> None:
    make_directory(path.parent)
    replace_durable(path, content)


def _fit(config: CandleTokenizerConfig, training: TokenizerTraining, corpus: Corpus) -> tuple[bytes, TrainReport]:
    settings, pretokenizer, postprocessor = config.model, config.pretokenizer, config.postprocessor
    model = models.BPE(dropout=settings.dropout, byte_fallback=settings.byte_fallback_on_decode)
    rust = byte_level(model, **pretokenizer.model_dump())
    rust.add_special_tokens(list(settings.special_tokens))
    if postprocessor is not None and any(postprocessor.tokens):
        set_post_processor(rust, *postprocessor.tokens, pair=postprocessor.pair_template)
    lines = _lines(corpus, training, MAX_TRAIN_BYTES if pretokenizer.use_regex else MAX_RUN_CHARS)
    sizes = {"vocab_size": settings.vocab_size, "min_frequency": settings.min_frequency}
    reader = TrainingText(MAX_TRAIN_BYTES, None, None)
    tokenizer, report = train_bpe(rust, reader, lines, **sizes, special=settings.special_tokens)
    return tokenizer.json_bytes, report


def _lines(corpus: Corpus, training: TokenizerTraining, max_chars: int) -> Iterator[str]:
    """Yield the lines in the order of transformer_candle, in chunks of at most `max_chars` characters."""
    files, generator = list(corpus.files), random.Random(training.seed)
    if training.shuffle:
        generator.shuffle(files)
    documents = first_documents(Corpus(tuple(files), corpus.reading), training.max_lines)
    for chunk in batched((document.text for document in documents), len, _CHUNK_CHARS, _CHUNK_LINES):
        if training.shuffle:
            generator.shuffle(chunk)
        for line in chunk:
            yield from (line[at : at + max_chars] for at in range(0, len(line), max_chars))


def _candle_manifest(config: CandleTokenizerConfig, corpus: Corpus, paths: list[Path], manifest: Manifest) -> Tree:
    """Return the keys of both manifests of transformer_candle, which wrote the second over the first."""
    digest = hashlib.sha256(canonical_json(config.model_dump(mode="json")))
    now, training = time.time(), config.training
    for path in paths:
        digest.update(str(path).encode() + path.read_bytes())
    files = [(file, content_hash(file)) for file in corpus.files]
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
