"""Every setting of a run: one frozen, strict tree. An unknown key or a wrong type is an error.

    RunConfig
    |- model       ModelConfig       the shape of the transformer
    |- tokenizer   TokenizerConfig   which vocabulary, or how to train one
    |- data        DataConfig        text or token shards, and how they become batches
    |- optimizer   MuonConfig | AdamWConfig   told apart by `algorithm`
    |- scheduler   SchedulerConfig   learning rate over time, and when the run ends
    `- runtime     RuntimeConfig     device, precision, seed, checkpoints, evaluation, logging

Precedence: these defaults < the file (and what it `extends`) < `--override key=value`. `config_io` reads it.
Off is null. Relations between settings are checked here; relations with files on disk where those are opened.
"""

from pathlib import Path
from typing import Annotated, Any, Literal, Self, cast

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator

Count = Annotated[int, Field(ge=1)]
Steps = Annotated[int, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]
Positive = Annotated[float, Field(gt=0.0)]


class Section(BaseModel):
    """A strict, immutable group of settings; the text below each field is its documentation."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        allow_inf_nan=False,
        hide_input_in_errors=True,
        use_attribute_docstrings=True,
    )


def _gated_width(model: dict[str, Any]) -> int:
    """8/3 of the hidden size, so that three gated products cost what two of 4x would; a multiple of 64."""
    return max(64, round(model["hidden_size"] * 8 / 3 / 64) * 64)


class ModelConfig(Section):
    """The shape of the transformer. Written to checkpoints as Qwen3 (`qk_norm`) or Llama."""

    hidden_size: Count = 384
    """Width of the residual stream (D)."""
    num_layers: Count = 6
    """Transformer blocks."""
    num_attention_heads: Count = 6
    """Query heads (H)."""
    num_key_value_heads: Count = Field(default_factory=lambda model: model["num_attention_heads"])
    """Key and value heads (K); fewer than the query heads is grouped-query attention."""
    head_dim: Count = Field(default_factory=lambda m: max(1, m["hidden_size"] // m["num_attention_heads"]))
    """Width of one head (d); even, for the rotary positions."""
    intermediate_size: Count = Field(default_factory=_gated_width)
    """Width of the gated MLP (F)."""
    vocab_size: Count | None = None
    """Rows of the embedding; null: the tokenizer's size rounded up to a multiple of 64."""
    max_position_embeddings: Count = 512
    """Longest context that the model is meant for."""
    rope_theta: Positive = 10_000.0
    """Base of the rotary frequencies."""
    rms_norm_eps: Positive = 1e-6
    """Added to the mean square in every RMSNorm."""
    qk_norm: bool = True
    """RMSNorm over each query and key head before RoPE: true saves as Qwen3, false as Llama."""
    attention_bias: bool = False
    """Biases in the four attention projections (Llama only)."""
    mlp_bias: bool = False
    """Biases in the three MLP projections (Llama only)."""
    tie_word_embeddings: bool = True
    """Use the embedding as the output head."""
    attn_dropout: Fraction = 0.0
    """Dropout on attention weights while training; the fast attention kernels are lost with it."""
    residual_dropout: Fraction = 0.0
    """Dropout on what each attention and MLP adds to the residual stream while training."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"num_attention_heads={self.num_attention_heads} is not a multiple of "
                f"num_key_value_heads={self.num_key_value_heads}; set model.num_key_value_heads to a divisor of it"
            )
        if self.head_dim % 2:
            raise ValueError(f"head_dim={self.head_dim} is odd, rotary positions need pairs; set model.head_dim")
        if self.qk_norm and (self.attention_bias or self.mlp_bias):
            raise ValueError(
                "biases cannot be combined with qk_norm: such a model is saved as Qwen3, whose readers load "
                "no biases; set model.qk_norm: false (Llama)"
            )
        return self


class TokenizerConfig(Section):
    """Which tokenizer: an existing one, or how to train one."""

    tokenizer_json: Path | None = None
    """A tokenizer.json, or the folder that holds it; null: train one from the training text."""
    vocab_size: Annotated[int, Field(ge=258, le=1 << 20)] = 32_000
    """Size of the vocabulary to train, the 256 bytes and the special tokens included."""
    min_frequency: Count = 2
    """A pair of tokens that occurs less often is never merged."""
    max_train_bytes: Count = 1 << 30
    """Bytes of text to train on at most, taken evenly over the documents."""


class DataConfig(Section):
    """Where text comes from and how it becomes batches."""

    train_shards: tuple[str, ...] = ()
    """Files, folders, `stdlib://`, or prepared token datasets."""
    validation_shards: tuple[str, ...] = ()
    """The same for validation; empty: a part of the training text is held out."""
    documents: Literal["file", "line"] = "file"
    """What one document of a .txt file is. Each row of .jsonl and .parquet always is one."""
    text_field: str = "text"
    """Column of .jsonl and .parquet that holds the text."""
    bad_utf8: Literal["error", "replace", "skip"] = "replace"
    """Bytes that are not UTF-8: stop, put U+FFFD and count, or leave the document out and count."""
    validation_fraction: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.01
    """Share held out without validation_shards: by document hash, or file tails below 1,000 documents."""
    cache_dir: Path | None = None
    """Where `train` keeps token datasets that it prepares; null: candlewick in $XDG_CACHE_HOME or ~/.cache."""
    num_workers: Count | None = None
    """Processes that prepare text; null: one per core."""
    shard_text_bytes: Annotated[int, Field(ge=1 << 16)] = 64 << 20
    """Bytes of text per token shard."""
    sequence_length: Annotated[int, Field(ge=2)] | None = None
    """Tokens per row (T); null: model.max_position_embeddings."""
    micro_batch_size: Count = 8
    """Rows per forward pass on each rank."""
    global_batch_size: Count | None = None
    """Rows per update over all ranks; null: what global_batch_tokens says, else one micro-batch per rank."""
    global_batch_tokens: Count | None = None
    """Tokens per update, rounded down to whole micro-batches over all ranks."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.global_batch_size is not None and self.global_batch_tokens is not None:
            raise ValueError("global_batch_size and global_batch_tokens say the same thing: set one of them")
        return self


class AdamWConfig(Section):
    """AdamW with decoupled weight decay (arXiv:1711.05101)."""

    algorithm: Literal["adam_w"] = "adam_w"
    learning_rate: Positive = 3e-4
    """Peak learning rate."""
    beta1: Fraction = 0.9
    """Decay of the first moment."""
    beta2: Fraction = 0.95
    """Decay of the second moment."""
    epsilon: Positive = 1e-8
    """Added to the square root of the second moment."""
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.1
    """Decoupled decay, times the learning rate, per update."""
    decay: Literal["matrices", "all"] = "matrices"
    """What decays: weight matrices (embeddings included), or every parameter."""
    max_grad_norm: Positive | None = 1.0
    """Clip the global gradient norm to this; null: never."""


class MuonConfig(AdamWConfig):
    """Muon for the matrices of the blocks, AdamW for embeddings, head and vectors."""

    algorithm: Literal["muon"] = "muon"  # pyright: ignore[reportIncompatibleVariableOverride]
    learning_rate: Positive = 0.02
    """Peak learning rate of the matrices."""
    adam_learning_rate: Positive = 3e-3
    """Peak learning rate of everything else."""
    momentum: Fraction = 0.95
    """Nesterov momentum of the matrices."""
    newton_schulz_steps: Annotated[int, Field(ge=1, le=20)] = 5
    """Iterations that bring a matrix's singular values near 1."""


def _algorithm(value: Any) -> str:
    if isinstance(value, dict):
        return str(cast("dict[str, Any]", value).get("algorithm", "muon"))
    return str(getattr(value, "algorithm", "muon"))


OptimizerConfig = Annotated[
    Annotated[MuonConfig, Tag("muon")] | Annotated[AdamWConfig, Tag("adam_w")],
    Discriminator(_algorithm),
]


class SchedulerConfig(Section):
    """The learning rate over time, and where the run ends: training needs exactly one of the four totals."""

    strategy: Literal["constant", "cosine", "wsd"] = "wsd"
    """Shape after the warm-up: flat, half a cosine, or flat and then linear decay."""
    warmup_steps: Steps | None = None
    """Steps of linear warm-up; null: 2 % of the run, at most 2,000."""
    decay_fraction: Annotated[float, Field(gt=0.0, le=1.0)] = 0.4
    """Last share of the run over which `wsd` decays."""
    min_lr: Annotated[float, Field(ge=0.0)] = 0.0
    """Learning rate at the end, as a share of the peak."""
    total_steps: Count | None = None
    """End after so many updates."""
    total_tokens: Count | None = None
    """End after so many tokens."""
    total_epochs: Positive | None = None
    """End after so many passes over the training tokens."""
    total_seconds: Positive | None = None
    """End after about so many seconds of training; becomes a number of steps once, when the speed is known."""


class CheckpointConfig(Section):
    """When to save, and what to keep."""

    directory: Path | None = None
    """Where; null: `checkpoints` in the run folder."""
    every_n_steps: Count = 1000
    """Save after so many updates; the end of the run and a stop always save."""
    max_keep: Annotated[int, Field(ge=2)] = 3
    """Newest checkpoints to keep."""


class BestConfig(Section):
    """Keeping the checkpoint with the lowest validation loss."""

    directory: Path | None = None
    """Where; null: `best` in the run folder."""
    max_keep: Count = 1
    """How many to keep."""


class EvaluationConfig(Section):
    """When to evaluate, and on how much."""

    every_n_steps: Count | None = 250
    """Evaluate after so many updates; null: at the end only."""
    max_batches: Count | None = 50
    """Micro-batches of validation rows at most; null: all. The last evaluation of a run always reads all."""
    best: BestConfig | None = BestConfig()
    """Keep the best checkpoint; null: no."""


class SampleConfig(Section):
    """Text that the model writes at every evaluation."""

    prompts: tuple[str, ...] = ("",)
    """One sample each; the empty prompt starts a document."""
    max_new_tokens: Count = 64
    """Tokens to write at most."""
    temperature: Annotated[float, Field(ge=0.0, le=5.0)] = 0.8
    """0 takes the likeliest token."""
    top_k: Count | None = 40
    """Sample among the k likeliest tokens; null: among all."""
    top_p: Annotated[float, Field(gt=0.0, le=1.0)] | None = None
    """Sample among the likeliest tokens that together reach this probability; null: among all."""


class LoggingConfig(Section):
    """Where progress goes besides `metrics.jsonl`, which is always written."""

    enable_stdout: bool = True
    """Show progress on the terminal."""
    tensorboard: bool | Path = False
    """Write TensorBoard files: true puts them into `tensorboard` in the run folder, a path there."""


class RuntimeConfig(Section):
    """Device, precision, seed, and what happens around the training steps."""

    seed: Annotated[int, Field(ge=0, lt=1 << 63)] = 42
    """Initial weights, order of the data, dropout."""
    device: Literal["auto", "cuda", "mps", "cpu"] = "auto"
    """auto: the first of cuda, mps, cpu that is there."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Of the products; weights and optimizer stay float32. auto: bf16 on CUDA devices that have it."""
    deterministic: bool = False
    """Only deterministic kernels on CUDA. The CPU is always bit-exact."""
    log_every_n_steps: Count = 10
    """Write metrics after so many updates."""
    max_nonfinite_steps: Count = 20
    """Stop after so many updates in a row whose gradients were not finite. Each is skipped."""
    checkpoint: CheckpointConfig = CheckpointConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    sample: SampleConfig | None = SampleConfig()
    """Write sample text at every evaluation; null: no."""
    logging: LoggingConfig = LoggingConfig()


class RunConfig(Section):
    """The whole tree. Only what builds a run sees it; every part gets its own section."""

    model: ModelConfig = Field(default_factory=ModelConfig)
    tokenizer: TokenizerConfig = TokenizerConfig()
    data: DataConfig = DataConfig()
    optimizer: OptimizerConfig = MuonConfig()
    scheduler: SchedulerConfig = SchedulerConfig()
    runtime: RuntimeConfig = RuntimeConfig()

    @property
    def sequence_length(self) -> int:
        """Tokens per row."""
        return self.data.sequence_length or self.model.max_position_embeddings

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.sequence_length > self.model.max_position_embeddings:
            raise ValueError(
                f"data.sequence_length={self.sequence_length} exceeds "
                f"model.max_position_embeddings={self.model.max_position_embeddings}"
            )
        totals = ("total_steps", "total_tokens", "total_epochs", "total_seconds")
        given = [name for name in totals if getattr(self.scheduler, name) is not None]
        if len(given) > 1:
            raise ValueError(
                f"scheduler has more than one end: {', '.join(given)}; keep one, set the others to null"
            )
        return self
