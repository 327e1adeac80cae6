"""Where text comes from, which tokenizer reads it, and how it becomes batches."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from candlewick.config.section import Count, Positive, Section


class TokenizerConfig(Section):
    """Which tokenizer: an existing one, or how to train one."""

    tokenizer_json: Path | None = None
    """A tokenizer.json, or the folder of a tokenizer; if this and vocab are null, one is trained on the text."""
    vocab: Path | None = None
    """A vocab.json of a byte-level BPE with GPT-2's pattern, where there is no tokenizer.json."""
    merges: Path | None = None
    """The merges.txt that belongs to the vocab."""
    special_tokens: Path | None = None
    """File with the special tokens that the tokenizer must have: a JSON array, or one per line."""
    vocab_size: Annotated[int, Field(ge=258, le=1 << 20)] = 32_000
    """Size of the vocabulary to train, including the 256 bytes and the special tokens."""
    min_frequency: Count = 2
    """Minimum frequency of a pair of tokens to be merged."""
    max_train_bytes: Count = 1 << 30
    """Maximum number of bytes to train on, taken evenly over the documents."""
    max_train_lines: Count | None = None
    """Maximum number of documents to train on, from the first (lines, with `data.documents: line`); null: all."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.vocab is None) != (self.merges is None):
            raise ValueError("vocab and merges belong together: set both, or neither")
        if self.special_tokens is not None and self.tokenizer_json is None and self.vocab is None:
            raise ValueError("special_tokens lists those of a tokenizer: it needs tokenizer_json or vocab")
        return self


class MixtureSource(Section):
    """One source of a mixture."""

    shards: tuple[str, ...] = Field(min_length=1)
    """Files, folders, `stdlib://`, or one prepared token dataset."""
    weight: Annotated[int, Field(ge=1, lt=1 << 32)] = 1
    """Relative weight: how many of every (sum of all weights) rows come from this source."""


class BatchStage(Section):
    """Part of a run with a smaller global batch than the rest."""

    steps: Count
    """Number of updates of this stage."""
    global_batch_size: Count
    """Rows per update over all ranks in this stage."""


class DataConfig(Section):
    """Where text comes from and how it becomes batches."""

    train_shards: tuple[str, ...] = ()
    """Files, folders, `stdlib://`, or one prepared token dataset."""
    mixture: tuple[MixtureSource, ...] = ()
    """Several sources with weights, in place of train_shards. Each has its own order and repeats when it ends."""
    validation_shards: tuple[str, ...] = ()
    """The same for validation; empty: part of the training text is held out."""
    validation_sets: dict[str, tuple[str, ...]] = Field(default={})
    """More validation text by name, each evaluated on its own: `eval/NAME/loss` and so on."""
    format: Literal["text", "chat"] = "text"
    """text, or chat: JSON lines with a list of messages, of which only the answers are trained on."""
    documents: Literal["file", "line"] = "file"
    """How a .txt file is split into documents. In .jsonl and .parquet each row is a document."""
    text_field: str = "text"
    """Column of .jsonl and .parquet that holds the text."""
    messages_field: str = "messages"
    """Column of a chat that holds its messages, each with `role` and `content`."""
    bad_utf8: Literal["error", "replace", "skip"] = "replace"
    """Bytes that are not UTF-8: stop, replace them by U+FFFD, or skip the document. Both are counted."""
    deduplicate: bool = False
    """Skip documents whose text is equal to that of an earlier one."""
    validation_fraction: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.01
    """Share held out if validation_shards is empty: by document hash, or file tails below 1,000 documents."""
    cache_dir: Path | None = None
    """Folder for the token datasets that `train` prepares; null: candlewick in $XDG_CACHE_HOME or ~/.cache."""
    cache_max_bytes: Count | None = None
    """Maximum size of the cache; the least recently used datasets are deleted. Null: no limit."""
    num_workers: Count | None = None
    """Worker processes that prepare text; null: one per core."""
    max_tokens: Count | None = None
    """For Hub sources: prepare at least N training tokens; null: as many as the schedule will read, else all."""
    max_documents: Count | None = None
    """For Hub sources: prepare at most N rows for training; null: all."""
    hub_split: Annotated[str, Field(min_length=1)] = "train"
    """Hub split to train on, unless the address names a path. For validation text it is the split `validation`."""
    shard_text_bytes: Annotated[int, Field(ge=1 << 16)] = 64 << 20
    """Bytes of text per token shard."""
    sequence_length: Annotated[int, Field(ge=2)] | None = None
    """Tokens per row (T); null: model.max_position_embeddings."""
    packing: Literal["chunk", "bfd"] = "chunk"
    """chunk: cut the text every T tokens; bfd: pack whole documents into rows, best fit decreasing."""
    document_mask: bool = False
    """Let a token attend to its own document only; positions restart with each document."""
    shuffle_buffer_size: Count | None = None
    """Rows per shuffle window with `order: window`; null: 65,536."""
    order: Literal["global", "window"] = Field(
        default_factory=lambda data: "global" if data["shuffle_buffer_size"] is None else "window"
    )
    """Shuffle rows over the whole dataset, or within consecutive windows (for remote or huge files)."""
    max_repetitions: Positive | None = None
    """Refuse a run that would read any source more often than this; null: no limit."""
    micro_batch_size: Count = 8
    """Rows per forward pass on each rank."""
    global_batch_size: Count | None = None
    """Rows per update over all ranks; null: from global_batch_tokens, else one micro-batch per rank."""
    global_batch_tokens: Count | None = None
    """Tokens per update, rounded down to whole micro-batches over all ranks."""
    batch_ramp: tuple[BatchStage, ...] = ()
    """Smaller global batches at the start of the run, one stage after another."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.global_batch_size is not None and self.global_batch_tokens is not None:
            raise ValueError("global_batch_size and global_batch_tokens say the same thing: set one of them")
        if self.mixture and self.train_shards:
            raise ValueError("train_shards and mixture both say what to train on: set one of them")
        if self.order == "global" and self.shuffle_buffer_size is not None:
            raise ValueError("shuffle_buffer_size is for order: window; remove one of them")
        for name in self.validation_sets:
            if not (name.isidentifier() and name.isascii()):
                raise ValueError(f"validation_sets: {name[:40]!r} is no name; use letters, digits and _")
            if not self.validation_shards and name in {f"mixture_{number}" for number in range(len(self.mixture))}:
                raise ValueError(f"validation_sets: {name!r} is what a source of the mixture holds out; rename it")
        return self
