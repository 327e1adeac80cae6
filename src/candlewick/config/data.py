"""Settings of the text, the tokenizer and the batches."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from candlewick.config.section import Count, Positive, Section


class TokenizerConfig(Section):
    """An existing tokenizer to use, or how to train one."""

    tokenizer_json: Path | None = None
    """Existing tokenizer: a tokenizer.json, or its folder. If this and vocab are null, a tokenizer is trained."""
    vocab: Path | None = None
    """Existing tokenizer without a tokenizer.json: its vocab.json (byte-level BPE with GPT-2's pattern)."""
    merges: Path | None = None
    """The merges.txt that belongs to vocab."""
    special_tokens: Path | None = None
    """File that lists special tokens which the existing tokenizer must have: a JSON array, or one per line."""
    vocab_size: Annotated[int, Field(ge=258, le=1 << 20)] = 32_000
    """Vocabulary size of a tokenizer to train, including the 256 bytes and the special tokens."""
    min_frequency: Count = 2
    """Minimum frequency at which a pair of tokens is merged."""
    max_train_bytes: Count = 1 << 30
    """Maximum number of bytes to train the tokenizer on, sampled evenly over the documents."""
    max_train_lines: Count | None = None
    """Train the tokenizer on the first N documents (lines, with `data.documents: line`); null: all."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.vocab is None) != (self.merges is None):
            raise ValueError("vocab and merges belong together: set both, or both to null")
        if self.special_tokens is not None and self.tokenizer_json is None and self.vocab is None:
            raise ValueError("special_tokens needs tokenizer_json or vocab; set tokenizer.special_tokens=null")
        return self


class MixtureSource(Section):
    """One source of a mixture."""

    shards: tuple[str, ...] = Field(min_length=1)
    """Training text: files, folders, `hf://datasets/...`, `stories://`, `stdlib://`, or one token dataset."""
    weight: Annotated[int, Field(ge=1, lt=1 << 32)] = 1
    """Relative weight: this source provides `weight` of every (sum of all weights) rows. 0.7, 0.3: 7, 3."""


class BatchStage(Section):
    """A stage at the start of a run with its own global batch size."""

    steps: Count
    """Number of updates in this stage."""
    global_batch_size: Count
    """Rows per update over all ranks in this stage."""


class DataConfig(Section):
    """Which text a run reads, and how the text becomes batches."""

    train_shards: tuple[str, ...] = ()
    """Training text: files, folders, `hf://datasets/...`, `stories://`, `stdlib://`, or one token dataset."""
    mixture: tuple[MixtureSource, ...] = ()
    """Weighted training sources, in place of train_shards. Each source is shuffled and repeated on its own."""
    validation_shards: tuple[str, ...] = ()
    """Validation text, in the same forms as train_shards; empty: part of the training text is held out."""
    validation_sets: dict[str, tuple[str, ...]] = Field(default={})
    """More validation texts by name. Each is evaluated separately, as `eval/NAME/loss` and so on."""
    prepared: dict[str, Path] = Field(default={})
    """Written by a run: the token datasets that were made of its text, by name (`tokens`, `validation`). They are
    read in the place of the text as long as they are there and fit the sources and the settings of text."""
    prepared_from: dict[str, tuple[str, ...]] = Field(default={})
    """Written by a run: the sources of each of these datasets."""
    include: tuple[str, ...] = ()
    """Files of folders to read, as patterns like those of .gitignore; empty: all that are text."""
    exclude: tuple[str, ...] = ()
    """Files of folders to leave out, as patterns like those of .gitignore, which is honored too."""
    format: Literal["text", "chat", "tokens"] = "text"
    """text; chat: rows with a list of messages, of which the assistant's are trained on; tokens: files of ids that
    nanoGPT, llm.c or Megatron made with the tokenizer that is named."""
    token_dtype: Literal["uint16", "uint32"] = "uint16"
    """Type of the ids in headerless files of tokens (`format: tokens`), as nanoGPT writes them."""
    documents: Literal["file", "line"] = "file"
    """How a file of plain text is split into documents. In files with rows each row is a document."""
    text_field: str = "text"
    """Column of .jsonl, .json, .csv, .parquet and .arrow files that holds the text; `a.b` for one in an object."""
    messages_field: str = "messages"
    """Column of a chat file with the messages, each with `role` and `content`; ShareGPT's is found too."""
    bad_utf8: Literal["error", "replace", "skip"] = "replace"
    """If bytes are not UTF-8: stop, replace them by U+FFFD, or skip the document. Both are counted."""
    bad_rows: Literal["error", "skip"] = "error"
    """If a row cannot be read (malformed, or without text in its column): stop, or skip and count it."""
    max_document_bytes: Annotated[int, Field(ge=1 << 10)] = 256 << 20
    """Maximum size of a row of JSON lines, .csv, .parquet and the like."""
    max_expansion: Annotated[int, Field(ge=2)] = 1000
    """Maximum ratio of the text of a compressed file to the file, of files that hold more than 64 MiB."""
    deduplicate: bool = False
    """Skip a document whose text equals that of an earlier document."""
    validation_fraction: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.01
    """Share to hold out without validation_shards: by document hash, below 1,000 documents the ends of files."""
    validation_max_tokens: Count = 2_000_000
    """Hold out about N tokens of the largest source at most, and the same share of the others."""
    cache_dir: Path | None = None
    """Folder for the token datasets that `train` prepares; null: candlewick in $XDG_CACHE_HOME or ~/.cache."""
    num_workers: Count | None = None
    """Worker processes that prepare text; null: one per core."""
    max_tokens: Count | None = None
    """Prepare at least N training tokens of each source; null: all, of the Hub as many as the schedule reads."""
    max_documents: Count | None = None
    """Prepare at most N documents of each source for training; null: no limit."""
    hub_split: Annotated[str, Field(min_length=1)] = "train"
    """Hub split to train on, unless the address names a path. Validation text uses the split `validation`."""
    shard_text_bytes: Annotated[int, Field(ge=1 << 16)] = 64 << 20
    """Bytes of text in each token shard."""
    sequence_length: Annotated[int, Field(ge=2)] | None = None
    """Tokens per row (T); null: model.max_position_embeddings."""
    packing: Literal["chunk", "bfd"] = "chunk"
    """chunk: cut the text every T tokens; bfd: pack whole documents into rows, best fit decreasing."""
    document_mask: bool = False
    """Restrict attention to the document of each token, and restart positions with each document."""
    shuffle_buffer_size: Count | None = None
    """Rows in each shuffle window of `order: window`; null: 65,536."""
    order: Literal["global", "window"] = Field(
        default_factory=lambda data: "global" if data["shuffle_buffer_size"] is None else "window"
    )
    """Shuffle rows over the whole dataset or in windows; default: window if shuffle_buffer_size is set."""
    max_repetitions: Positive | None = None
    """Refuse a run that would read a source more than N times; null: no limit."""
    micro_batch_size: Count = 8
    """Rows per forward pass on each rank (process)."""
    global_batch_size: Count | None = None
    """Rows per update over all ranks; null: from global_batch_tokens, else one micro-batch per rank."""
    global_batch_tokens: Count | None = None
    """Tokens per update, rounded down to whole micro-batches over all ranks."""
    batch_ramp: tuple[BatchStage, ...] = ()
    """Stages at the start of the run, in order, with smaller global batches."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.global_batch_size is not None and self.global_batch_tokens is not None:
            raise ValueError(
                "global_batch_size and global_batch_tokens exclude each other: set one of them to null"
            )
        if self.mixture and self.train_shards:
            raise ValueError("train_shards and mixture both say what to train on: set one of them to []")
        if self.order == "global" and self.shuffle_buffer_size is not None:
            raise ValueError("shuffle_buffer_size needs order: window; set data.shuffle_buffer_size=null")
        for name in self.validation_sets:
            if not (name.isidentifier() and name.isascii()):
                raise ValueError(f"validation_sets: {name[:40]!r} is not a valid name; use letters, digits and _")
            if not self.validation_shards and name in {f"mixture_{number}" for number in range(len(self.mixture))}:
                raise ValueError(
                    f"validation_sets: {name!r} is the name of held-out text of the mixture; rename it"
                )
        return self
