"""Where text comes from, which tokenizer reads it, and how it becomes batches."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from candlewick.config.section import Count, Positive, Section


class TokenizerConfig(Section):
    """Which tokenizer: an existing one, or how to train one."""

    tokenizer_json: Path | None = None
    """A tokenizer.json, or the folder of a tokenizer; null without a vocab: train one from the training text."""
    vocab: Path | None = None
    """A vocab.json, where there is no tokenizer.json: a byte-level BPE with GPT-2's pattern."""
    merges: Path | None = None
    """The merges.txt that belongs to the vocab."""
    special_tokens: Path | None = None
    """A list of the special tokens that the tokenizer must have: a JSON array, or one to a line."""
    vocab_size: Annotated[int, Field(ge=258, le=1 << 20)] = 32_000
    """Size of the vocabulary to train, the 256 bytes and the special tokens included."""
    min_frequency: Count = 2
    """A pair of tokens that occurs less often is never merged."""
    max_train_bytes: Count = 1 << 30
    """Bytes of text to train on at most, taken evenly over the documents."""
    max_train_lines: Count | None = None
    """Documents to train on at most, the first ones (with `data.documents: line`, lines); null: all."""

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
    """Its rows among every (sum of all weights) rows."""


class BatchStage(Section):
    """A stretch of a run with a smaller global batch than the rest."""

    steps: Count
    """Updates that it lasts."""
    global_batch_size: Count
    """Rows per update over all ranks while it lasts."""


class DataConfig(Section):
    """Where text comes from and how it becomes batches."""

    train_shards: tuple[str, ...] = ()
    """Files, folders, `stdlib://`, or one prepared token dataset."""
    mixture: tuple[MixtureSource, ...] = ()
    """Several sources with weights, in place of train_shards; each in an order of its own, again when it ends."""
    validation_shards: tuple[str, ...] = ()
    """The same for validation; empty: a part of the training text is held out."""
    validation_sets: dict[str, tuple[str, ...]] = Field(default={})
    """More validation text by name, each evaluated on its own: `eval/NAME/loss` and so on."""
    format: Literal["text", "chat"] = "text"
    """chat: JSON lines with a list of messages; only answers are trained on."""
    documents: Literal["file", "line"] = "file"
    """What one document of a .txt file is. Each row of .jsonl and .parquet always is one."""
    text_field: str = "text"
    """Column of .jsonl and .parquet that holds the text."""
    messages_field: str = "messages"
    """Key of a chat's rows that holds its messages, each with `role` and `content`."""
    bad_utf8: Literal["error", "replace", "skip"] = "replace"
    """Bytes that are not UTF-8: stop, put U+FFFD and count, or leave the document out and count."""
    deduplicate: bool = False
    """Leave out a document whose text is the same as that of one before it."""
    validation_fraction: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.01
    """Share held out without validation_shards: by document hash, or file tails below 1,000 documents."""
    cache_dir: Path | None = None
    """Where `train` keeps token datasets that it prepares; null: candlewick in $XDG_CACHE_HOME or ~/.cache."""
    cache_max_bytes: Count | None = None
    """When the cache grows beyond this, what was not used for the longest time goes; null: nothing goes."""
    num_workers: Count | None = None
    """Processes that prepare text; null: one per core."""
    max_tokens: Count | None = None
    """Of a source on the Hub: tokens to train on to prepare, no less; null: what the schedule reads, or all."""
    max_documents: Count | None = None
    """Of a source on the Hub: rows to prepare for training at most; null: all."""
    hub_split: Annotated[str, Field(min_length=1)] = "train"
    """Of a source on the Hub: the split whose files are trained on, if the address names no path in it.
    For validation text that is the split `validation`."""
    shard_text_bytes: Annotated[int, Field(ge=1 << 16)] = 64 << 20
    """Bytes of text per token shard."""
    sequence_length: Annotated[int, Field(ge=2)] | None = None
    """Tokens per row (T); null: model.max_position_embeddings."""
    packing: Literal["chunk", "bfd"] = "chunk"
    """chunk: the text cut at every T tokens; bfd: whole documents packed into rows, best fit first."""
    document_mask: bool = False
    """A token sees its own document only, and positions begin anew with each."""
    shuffle_buffer_size: Count | None = None
    """Rows that are shuffled together with `order: window`; null: 65,536."""
    order: Literal["global", "window"] = Field(
        default_factory=lambda data: "global" if data["shuffle_buffer_size"] is None else "window"
    )
    """Rows shuffled over the whole set, or within windows one after another (remote or huge files)."""
    max_repetitions: Positive | None = None
    """Refuse a run that would read any source more often than this; null: never."""
    micro_batch_size: Count = 8
    """Rows per forward pass on each rank."""
    global_batch_size: Count | None = None
    """Rows per update over all ranks; null: what global_batch_tokens says, else one micro-batch per rank."""
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
        return self
