"""Encode a text into a token dataset: in parallel, restartable, and only if it is not up to date.

    corpus --plan--> tasks --worker processes--> OUTPUT.partial/shards/ --manifest, rename--> OUTPUT/

A finished task leaves a receipt. After a stop at any moment, `kill -9` included, the next process runs the tasks
without a receipt and ends in the same dataset: its id depends on text, settings and tokenizer only.
"""

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self, cast

from candlewick.artifacts.build import ProgressCallback, Recipe, build_once, interruptible
from candlewick.artifacts.manifest import FileEntry, Manifest, json_sha256, provenance, publish
from candlewick.config import DataConfig
from candlewick.data.text.corpus import Corpus
from candlewick.data.text.documents import TextDefects
from candlewick.data.text.file_ranges import SPLITS, Split
from candlewick.data.text.holdout import Holdout
from candlewick.data.text.source_files import SourceFiles, open_text
from candlewick.data.tokens.dataset import KIND, VERSION, token_dtype
from candlewick.data.tokens.duplicates import remove_duplicates
from candlewick.data.tokens.encode import Receipt, TokenOutput, receipt_entry, run_tasks
from candlewick.data.tokens.plan import dataset_settings, plan_tasks
from candlewick.data.tokens.stream import StreamPreparation, TaskResults
from candlewick.data.tokens.workers import count_cores
from candlewick.errors import ConfigError, DataError
from candlewick.tokenizer.bpe import Tokenizer
from candlewick.tokenizer.special import DELIMITER

logger = logging.getLogger(__name__)

_MAX_LISTED = 1000


@dataclass(frozen=True, slots=True)
class EncodeJob:
    """Training and validation text, either of which may be missing, and the tokenizer to encode them."""

    train: Corpus | SourceFiles | None
    validation: Corpus | SourceFiles | None
    tokenizer: Tokenizer
    config: DataConfig
    hold_out: bool  # hold out a part of the training text for validation

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

    def recipe(self) -> Recipe:
        """Return the inputs and settings of the dataset."""
        inputs = {
            "corpus": None if self.train is None else self.train.fingerprint,
            "tokenizer": self.tokenizer.sha256,
            "validation_corpus": None if self.validation is None else self.validation.fingerprint,
        }
        settings = dataset_settings(self.config, hold_out=self.hold_out)
        if isinstance(self.train, SourceFiles):
            settings |= self.config.model_dump(include={"max_tokens", "max_documents"})
        return Recipe(KIND, inputs, settings | self.delimiter_settings, VERSION)

    @property
    def delimiter_settings(self) -> dict[str, Any]:
        """Return the ids around a document; nothing if only Candlewick's delimiter begins it."""
        tokenizer = self.tokenizer
        is_ours = tokenizer.end_id is None and tokenizer.delimiter == DELIMITER
        return {} if is_ours else {"delimiter_id": tokenizer.delimiter_id, "end_id": tokenizer.end_id}

    @property
    def needs_streaming(self) -> bool:
        """Whether any text comes from the Hub. Raises ConfigError for settings that need all text at once."""
        if not any(isinstance(side, SourceFiles) for side in (self.train, self.validation)):
            return False
        if self.config.deduplicate:
            raise ConfigError(
                "data.deduplicate reads all text twice, text of the Hub is read once",
                "write it to this disk with `candlewick data shard` first",
            )
        return True


def prepare_tokens(
    job: EncodeJob, output: Path, *, progress: ProgressCallback | None = None
) -> tuple[Manifest, bool]:
    """Build the token dataset `output`; return its manifest, and whether it was there already.

    Raises DataError for text that cannot be used, ArtifactError if something else is at `output`, RunInterrupted.
    """
    recipe = job.recipe()

    def build(folder: Path) -> Manifest:
        with interruptible(folder):
            files, details, backend = _encode(job, folder, progress)
        _require_text(job, details)
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
    job: EncodeJob, folder: Path, progress: ProgressCallback | None
) -> tuple[list[FileEntry], dict[str, Any], str]:
    """Write the dataset's files; return them, the manifest's details and the name of the encoder."""
    for name in ("shards", "tokenizer"):
        (folder / name).mkdir(exist_ok=True)
    entries = job.tokenizer.write(folder / "tokenizer")
    files = [replace(entry, name=f"tokenizer/{entry.name}") for entry in entries]
    tokenizer, delimiters = job.tokenizer, job.delimiter_settings
    identity = json_sha256([tokenizer.sha256, delimiters]) if delimiters else tokenizer.sha256
    output = TokenOutput(folder, tokenizer.vocab_size, tokenizer.delimiter_id, tokenizer.end_id)
    duplicates = 0
    if job.needs_streaming:
        holdout, results = ("hash" if job.hold_out else "given"), TaskResults()
        sides: dict[Split, Corpus | SourceFiles | None] = {"train": job.train, "validation": job.validation}
        for side, text in sides.items():
            if text is not None:
                sources = text if isinstance(text, SourceFiles) else SourceFiles(text.files, text.config)
                shared = results, output, identity, job.hold_out, job.workers, progress
                StreamPreparation(sources, side, *shared).prepare()
        tasks, receipts, backend = results.tasks, results.receipts, results.backend
    else:
        train, validation = (
            side and remove_duplicates(cast(Corpus, side), job.workers) for side in (job.train, job.validation)
        )
        holdout, tasks = plan_tasks(train, validation, identity, job.config, hold_out=job.hold_out)
        receipts, backend = run_tasks(tasks, output, job.workers, progress)
        corpora = [corpus for corpus in (train, validation) if corpus is not None]
        duplicates = sum(len(positions) for corpus in corpora for positions in corpus.duplicates.values())
    for task, receipt in zip(tasks, receipts, strict=True):
        files += [*receipt.files, receipt_entry(folder, task)]
    details = _dataset_details(tokenizer.vocab_size, holdout, receipts, duplicates)
    details["delimiter"] = {"id": tokenizer.delimiter_id, "token": tokenizer.delimiter, "where": "doc_start"}
    if tokenizer.roles.end is not None:
        details["end"] = {"id": tokenizer.end_id, "token": tokenizer.roles.end, "where": "doc_end"}
    return files, details, backend


def _dataset_details(
    vocab_size: int, holdout: Holdout, receipts: Sequence[Receipt], duplicates: int
) -> dict[str, Any]:
    shards = [shard for receipt in receipts for shard in receipt.shards]
    defects = TextDefects()
    for receipt in receipts:
        defects.merge(receipt.bad_utf8)
    if defects.unanswered:
        logger.warning("%d conversations without an answer are left out", defects.unanswered)
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
        "left_out": {"duplicates": duplicates, "unanswered": defects.unanswered},
        "splits": splits,
        "shards": [asdict(shard) for shard in shards],
    }


def _require_text(job: EncodeJob, details: dict[str, Any]) -> None:
    validation = job.train if job.hold_out else job.validation
    sides: tuple[tuple[Split, str, Corpus | SourceFiles | None, str], ...] = (
        ("train", "training", job.train, "text that is not empty or left out"),
        ("validation", "validation", validation, "raise data.validation_fraction, or set data.validation_shards"),
    )
    for split, name, text, fix in sides:
        if text is not None and not details["splits"][split]["text_bytes"]:
            names = ", ".join(file.name for file in text.files)[:200]
            raise DataError(f"no {name} text came out of {names}", f"give more text, or {fix}")
