"""Encode a text into a token dataset: in parallel, restartable, and only if it is not up to date.

    corpus --plan--> tasks --worker processes--> OUTPUT.partial/shards/ --manifest, rename--> OUTPUT/

A finished task leaves a receipt. After a stop at any moment, `kill -9` included, the next process runs the tasks
without a receipt and ends in the same dataset: its id depends on text, settings and tokenizer only.
"""

import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Self

from candlewick.artifacts.build import ProgressCallback, Recipe, build_once, interruptible
from candlewick.artifacts.manifest import FileEntry, Manifest, json_sha256, provenance, publish
from candlewick.config import DataConfig
from candlewick.data.text.corpus import Corpus
from candlewick.data.text.documents import TextDefects
from candlewick.data.text.file_ranges import SPLITS, FileRange, Split, TextFile
from candlewick.data.text.find import open_text
from candlewick.data.text.holdout import Holdout, Tails, choose_holdout, explain_share, hold_tails
from candlewick.data.tokens.dataset import KIND, VERSION, token_dtype
from candlewick.data.tokens.duplicates import remove_duplicates
from candlewick.data.tokens.encode import BEGINNING, Continuation, Position, Receipt, TokenOutput, receipt_entry
from candlewick.data.tokens.overlap import count_alike
from candlewick.data.tokens.pipeline import TaskResults, TextPipeline
from candlewick.data.tokens.plan import dataset_settings
from candlewick.data.tokens.token_files import hold_token_tails
from candlewick.data.tokens.workers import count_cores
from candlewick.errors import ConfigError, DataError
from candlewick.tokenizer.bpe import Tokenizer
from candlewick.tokenizer.special import DELIMITER

logger = logging.getLogger(__name__)

TailRanges = Mapping[TextFile, tuple[FileRange, ...]]
_MAX_LISTED = 1000
_BYTES_PER_TOKEN = 4
_EXPANSION = (1, 4)  # bytes of text per byte of a file, about, and of a compressed one


@dataclass(frozen=True, slots=True)
class EncodeJob:
    """Training and validation text, either of which may be missing, and the tokenizer to encode them."""

    train: Corpus | None
    validation: Corpus | None
    tokenizer: Tokenizer
    config: DataConfig
    hold_out: bool  # hold out a part of the training text for validation
    sources: tuple[Corpus, ...] = ()
    """All training text of the run, in order, so that none of it is trained on and held out. Empty: `train`."""
    before: tuple[Path, Manifest] | None = None
    """A dataset of this text up to fewer tokens: only what comes after it is encoded."""

    @classmethod
    def from_config(cls, config: DataConfig, tokenizer: Tokenizer) -> Self:
        """Open the text of a config. Raises DataError, ConfigError or MachineError, as `open_text` does."""
        train, validation = config.train_shards, config.validation_shards
        return cls(
            None if validation and not train else open_text(train, config),
            open_text(validation, config, "validation") if validation else None,
            tokenizer.with_chat_tokens() if config.format == "chat" else tokenizer,
            config,
            hold_out=not validation,
        )

    @property
    def workers(self) -> int:
        """The number of worker processes."""
        return self.config.num_workers or count_cores()

    @property
    def all_sources(self) -> tuple[Corpus, ...]:
        """All training text of the run."""
        return self.sources or ((self.train,) if self.train is not None else ())

    def choose_holdout(self) -> Holdout:
        """Return how validation text is held out of the training text."""
        if self.train is None or not self.hold_out:
            return "given"
        return "tails" if self.config.format == "tokens" else choose_holdout(self.all_sources)

    def _share(self, holdout: Holdout) -> float:
        """Return the share of a source to hold out: of the largest one `data.validation_max_tokens` at most."""
        limit = sys.maxsize if self.config.max_tokens is None else self.config.max_tokens * _BYTES_PER_TOKEN
        sizes = [
            sum(file.bytes * _EXPANSION[file.compression is not None] for file in source.files)
            for source in self.all_sources
        ]
        size = max([1, *sizes])
        most = self.config.validation_max_tokens * _BYTES_PER_TOKEN
        read = min(size, limit)
        share = min(self.config.validation_fraction, most / read)
        return share * read / size if holdout == "tails" else share  # tails are of all text, read or not

    def recipe(self) -> Recipe:
        """Return the inputs and settings of the dataset; reads up to 1,000 documents."""
        inputs: dict[str, Any] = {
            "corpus": None if self.train is None else self.train.fingerprint,
            "tokenizer": self.tokenizer.sha256,
            "validation_corpus": None if self.validation is None else self.validation.fingerprint,
        }
        settings, holdout = dataset_settings(self.config, hold_out=self.hold_out), self.choose_holdout()
        settings |= {"holdout": holdout} | self.config.model_dump(include={"max_tokens", "max_documents"})
        if holdout != "given" and (share := self._share(holdout)) < self.config.validation_fraction:
            settings["share"] = share
        if holdout == "tails" and len(self.all_sources) > 1:
            inputs["sources"] = [source.fingerprint for source in self.all_sources]
        if self.before is not None:  # which is held out by the share of the first part, so that it stays so
            manifest = self.before[1]
            inputs["before"] = manifest.id
            settings = {name: value for name, value in settings.items() if name != "share"}
            settings |= {name: value for name, value in manifest.config.items() if name == "share"}
        return Recipe(KIND, inputs, settings | self.delimiter_settings, VERSION)

    def begins_with(self, manifest: Manifest) -> bool:
        """Return whether a dataset is of this text with these settings, but up to fewer tokens or in parts."""
        recipe, free = self.recipe(), {"max_tokens", "share", "before"}
        made, wanted = ({**of.inputs, **of.config} for of in (manifest, recipe))
        is_same = all(made.get(name) == wanted.get(name) for name in {*made, *wanted} - free)
        return is_same and made != wanted and is_limited(manifest, self.config.max_tokens)

    @property
    def delimiter_settings(self) -> dict[str, Any]:
        """Return the ids around a document; nothing if only Candlewick's delimiter begins it."""
        tokenizer = self.tokenizer
        is_ours = tokenizer.end_id is None and tokenizer.delimiter == DELIMITER
        return {} if is_ours else {"delimiter_id": tokenizer.delimiter_id, "end_id": tokenizer.end_id}

    def without_duplicates(self) -> Self:
        """Return the job with the positions of duplicates, if `data.deduplicate` asks for them.

        Raises ConfigError for text of the Hub, which is read once.
        """
        if not self.config.deduplicate:
            return self
        if not all(text.is_local for text in (self.train, self.validation) if text is not None):
            raise ConfigError(
                "data.deduplicate reads all text twice, text of the Hub is read once",
                "write it to this disk with `candlewick data shard` first",
            )
        how = self.workers, self.config.shard_text_bytes
        train, validation = (text and remove_duplicates(text, *how) for text in (self.train, self.validation))
        # few documents are held out by what is left of all sources
        sources = self.sources if self.choose_holdout() == "tails" else ()
        others = (train if text is self.train else remove_duplicates(text, *how) for text in sources)
        return replace(self, train=train, validation=validation, sources=tuple(text for text in others if text))


def prepare_tokens(
    job: EncodeJob, output: Path, *, progress: ProgressCallback | None = None
) -> tuple[Manifest, bool]:
    """Build the token dataset `output`; return its manifest, and whether it was there already.

    Raises DataError for text that cannot be used, ArtifactError if something else is at `output`, RunInterrupted.
    """
    recipe = job.recipe()

    def build(folder: Path) -> Manifest:
        with interruptible(folder):
            files, details, backend = _encode(job.without_duplicates(), recipe, folder, progress)
        if job.before is None:
            reason = ""
            if details["holdout"] == "hash":
                trained, held_out = (details["splits"][split]["documents"] for split in SPLITS)
                share = recipe.config.get("share", job.config.validation_fraction)
                reason = explain_share(trained, held_out, share, partial(count_alike, folder, details))
            _require_text(job, details, reason)
        names = {folder / entry.name for entry in files}
        for path in folder.rglob("*"):  # left by killed runs, or by runs with other settings
            if path.is_file() and path not in names:
                path.unlink()
        made = provenance(encoder=backend, workers=job.workers, text=_describe_text(job))
        manifest = Manifest(KIND, VERSION, recipe.inputs, recipe.config, tuple(files), details, made)
        return publish(folder, output, manifest)

    return build_once(output, recipe, build, hashes=False)


def _describe_text(job: EncodeJob) -> dict[str, Any]:
    """Return names, sizes and hashes of the source files of each side, as many as a manifest has room for."""
    sides = {"train": job.train, "validation": job.validation}
    described: dict[str, Any] = {}
    for side, text in sides.items():
        if text is not None:
            sizes = [file.bytes for file in text.files]
            described[side] = {"num_files": len(sizes), "bytes": sum(sizes), "files": text.rows[:_MAX_LISTED]}
    return described


def _encode(
    job: EncodeJob, recipe: Recipe, folder: Path, progress: ProgressCallback | None
) -> tuple[list[FileEntry], dict[str, Any], str]:
    """Write the dataset's files; return them, the manifest's details and the name of the encoder."""
    for name in ("shards", "tokenizer"):
        (folder / name).mkdir(exist_ok=True)
    entries = job.tokenizer.write(folder / "tokenizer")
    files = [replace(entry, name=f"tokenizer/{entry.name}") for entry in entries]
    tokenizer, begin = job.tokenizer, BEGINNING
    results, end = TaskResults(), None
    if job.before is not None:
        tasks, position, rows = job.before[1].details["next"]
        begin = Continuation(tasks, Position(*position), rows)
        results.tokens = train_tokens(job.before[1])
    holdout: Holdout = recipe.config["holdout"]
    full_share = recipe.config.get("share", job.config.validation_fraction)
    output = TokenOutput(folder, tokenizer.vocab_size, tokenizer.delimiter_id, tokenizer.end_id)
    settings = {name: value for name, value in recipe.config.items() if not name.startswith("max_")}
    key = json_sha256([tokenizer.sha256, settings])
    common = results, output, key, job.config.shard_text_bytes, job.workers
    hold = hold_token_tails if job.config.format == "tokens" else hold_tails
    tails = hold(job.all_sources, full_share) if holdout == "tails" else Tails()
    if job.train is not None:
        limits = {"max_tokens": job.config.max_tokens, "max_documents": job.config.max_documents}
        share = full_share if holdout == "hash" else 0.0
        is_limited = tails.ranges and any(limit is not None for limit in limits.values())
        train, held_out = _divide(tails.ranges) if is_limited else (tails.ranges, {})
        text = TextPipeline(job.train, "train", *common, share, train, **limits, begin=begin, progress=progress)
        end = text.run()
        if is_limited and begin is BEGINNING:  # the tails of files that training does not reach count too
            TextPipeline(job.train, "validation", *common, tails=held_out).run()
    if job.validation is not None:
        TextPipeline(job.validation, "validation", *common, progress=progress).run()
    for task, receipt in zip(results.tasks, results.receipts, strict=True):
        files += [*receipt.files, receipt_entry(folder, task)]
    corpora = [corpus for corpus in (job.train, job.validation) if corpus is not None]
    duplicates = sum(len(positions) for corpus in corpora for positions in corpus.duplicates.values())
    copies = 0 if job.train is None else sum(tails.copies.get(file, 0) for file in job.train.files)
    left_out = {"duplicates": duplicates, "copies": copies}
    details = _dataset_details(tokenizer.vocab_size, holdout, results.receipts, left_out)
    details["delimiter"] = {"id": tokenizer.delimiter_id, "token": tokenizer.delimiter, "where": "doc_start"}
    if tokenizer.roles.end is not None:
        details["end"] = {"id": tokenizer.end_id, "token": tokenizer.roles.end, "where": "doc_end"}
    if end is not None:
        details["next"] = end
    if job.before is not None:
        details["before"] = {"folder": job.before[0].name, "tokens": train_tokens(job.before[1])}
    return files, details, results.backend


def is_limited(manifest: Manifest, max_tokens: int | None) -> bool:
    """Return whether a dataset was prepared up to at most so many tokens."""
    limit = manifest.config.get("max_tokens")
    return manifest.version == VERSION and limit is not None and max_tokens is not None and limit <= max_tokens


def misses_tokens(manifest: Manifest, max_tokens: int | None) -> bool:
    """Return whether its text would give a dataset more tokens if it were prepared up to so many."""
    is_full = max_tokens is not None and train_tokens(manifest) >= max_tokens
    return "next" in manifest.details and not is_full


def train_tokens(manifest: Manifest) -> int:
    """Return the training tokens of a dataset, and of those before it."""
    before = manifest.details.get("before", {"tokens": 0})
    return manifest.details["splits"]["train"]["tokens"] + before["tokens"]


def _divide(ranges: TailRanges) -> tuple[TailRanges, TailRanges]:
    """Return the ranges for training, and those that are held out."""
    train, held_out = (
        {
            file: tuple(part for part in parts if (part.split == "validation") is is_held)
            for file, parts in ranges.items()
        }
        for is_held in (False, True)
    )
    return train, held_out


def _dataset_details(
    vocab_size: int, holdout: Holdout, receipts: Sequence[Receipt], left_out: dict[str, int]
) -> dict[str, Any]:
    shards = [shard for receipt in receipts for shard in receipt.shards]
    defects = TextDefects()
    for receipt in receipts:
        defects.merge(receipt.bad_utf8)
    defects.warn()
    counted = ("tokens", "documents", "text_bytes")
    splits = {
        split: {name: sum(getattr(shard, name) for shard in shards if shard.split == split) for name in counted}
        for split in SPLITS
    }
    return {
        "dtype": token_dtype(vocab_size).str,
        "vocab_size": vocab_size,
        "specials_in_text": "plain",
        "holdout": holdout,
        "bad_utf8": {"documents": defects.documents, "sequences": defects.sequences, "examples": defects.examples},
        "left_out": {**left_out, "unanswered": defects.unanswered, "bad rows": defects.rows},
        "splits": splits,
        "shards": [asdict(shard) for shard in shards],
    }


def _require_text(job: EncodeJob, details: dict[str, Any], reason: str) -> None:
    is_alone = len(job.all_sources) == 1  # of several sources a small one may hold out nothing
    validation = job.train if job.hold_out and is_alone else job.validation
    sides: tuple[tuple[Split, str, Corpus | None, str], ...] = (
        ("train", "training", job.train, "text that is not empty or left out"),
        ("validation", "validation", validation, "raise data.validation_fraction, or set data.validation_shards"),
    )
    for split, name, text, fix in sides:
        if text is not None and not details["splits"][split]["text_bytes"]:
            names = ", ".join(file.name for file in text.files)[:200]
            because, fix = (f": {reason}", "set data.validation_shards") if reason else ("", fix)
            raise DataError(f"no {name} text came out of {names}{because}", f"give more text, or {fix}")
