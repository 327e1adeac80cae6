"""Every setting of a run: one frozen, strict tree. An unknown key or a wrong type is an error.

    RunConfig
    |- model       ModelConfig       the shape of the transformer
    |- tokenizer   TokenizerConfig   which vocabulary, or how to train one
    |- data        DataConfig        text or token shards, and how they become batches
    |- objective   ObjectiveConfig   what is minimized
    |- optimizer   MuonConfig | AdamWConfig | AdamConfig | SGDConfig | LionConfig, by `algorithm`
    |- scheduler   SchedulerConfig   learning rate over time, and when the run ends
    `- runtime     RuntimeConfig     device, precision, seed, checkpoints, evaluation, logging

`config.load` reads the tree from a file. null disables a feature. Relations between settings are checked here,
relations between settings and files where the files are opened.
"""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from candlewick.config.data import DataConfig, TokenizerConfig
from candlewick.config.model import ModelConfig
from candlewick.config.optimizer import MuonConfig, OptimizerConfig, SchedulerConfig
from candlewick.config.section import Count, Fraction, Positive, Section


class ObjectiveConfig(Section):
    """What training minimizes: the cross-entropy of the next token."""

    label_smoothing: Fraction = 0.0
    """Share of each target's probability that is spread evenly over the vocabulary (arXiv:1512.00567, section 7).
    `train/loss` is then the smoothed one; evaluations are never smoothed."""


class CheckpointConfig(Section):
    """When to save checkpoints, and how many to keep."""

    directory: Path | None = None
    """Folder of the checkpoints; null: RUN/checkpoints."""
    every_n_epochs: Count | None = None
    """Save every N epochs; null disables epoch-based saving."""
    every_n_steps: Count | None = Field(default_factory=lambda values: None if values["every_n_epochs"] else 1000)
    """Save every N updates; null: never. Default: 1000 without every_n_epochs. The end and a stop always save."""
    max_keep: Count | None = 3
    """Number of newest checkpoints to keep; null: all."""
    before_decay: bool = False
    """Save where the learning rate begins to fall, and keep that checkpoint: a longer run can go on from it."""
    init_from: str | None = None
    """Start a new run from the weights, model and tokenizer of this checkpoint, or of `hf://OWNER/NAME@REVISION`.
    The optimizer starts fresh."""


class BestConfig(Section):
    """Where to keep the checkpoints with the lowest validation loss, and how many."""

    directory: Path | None = None
    """Folder of links to the best checkpoints; null: RUN/best is a link to the best of all."""
    max_keep: Count | None = 1
    """Number of best checkpoints to keep, beside those of `runtime.checkpoint.max_keep`; null: all."""


class EvaluationConfig(Section):
    """When to evaluate on validation text, and on how much of it."""

    every_n_epochs: Count | None = None
    """Evaluate every N epochs; null disables epoch-based evaluation."""
    every_n_steps: Count | None = Field(default_factory=lambda values: None if values["every_n_epochs"] else 250)
    """Evaluate every N updates; null: never. Default: 250 without every_n_epochs."""
    at_shares: tuple[Annotated[float, Field(gt=0.0, lt=1.0)], ...] = ()
    """Evaluate after these shares of the run too, of its time if `scheduler.total_seconds` ends it."""
    at_end: bool = True
    """Evaluate after the last update, then on all of the validation text, whose figures are named `final/...`."""
    max_tokens: Count | None = 262_144
    """Maximum number of validation tokens, in rows spread evenly over each split; null: all. The end reads all."""
    best: BestConfig | None = BestConfig()
    """Keep the best checkpoints; null disables it."""


class SampleConfig(Section):
    """Sample text that the model writes at every evaluation."""

    prompts: tuple[str, ...] | None = ("",)
    """Prompts, with one sample each; an empty one starts a document. null: the first words of a held-out one."""
    max_new_tokens: Count = 64
    """Maximum number of new tokens."""
    temperature: Annotated[float, Field(ge=0.0, le=5.0)] = 0.8
    """Sampling temperature; 0 always takes the most likely token."""
    top_k: Count | None = 40
    """Sample from the k most likely tokens; null disables the limit."""
    top_p: Annotated[float, Field(gt=0.0, le=1.0)] | None = None
    """Sample from the most likely tokens whose probabilities add up to this; null disables the limit."""
    min_p: Annotated[float, Field(gt=0.0, le=1.0)] | None = None
    """Sample from tokens with at least this share of the top probability (arXiv:2407.01082); null disables it."""
    repetition_penalty: Positive = 1.0
    """Repetition penalty (arXiv:1909.05858 section 4.1); 1 disables it."""
    stop: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    """End a sample before any of these texts."""


class LoggingConfig(Section):
    """Where progress is shown and recorded, besides `metrics.jsonl`, which is always written."""

    enable_stdout: bool = True
    """Show progress on the terminal."""
    tensorboard: bool | Path | None = None
    """Write TensorBoard files: true writes to RUN/tensorboard, a path to that folder; null: true if the package
    tensorboard is installed."""
    tensorboard_flush_every_n: Count | None = None
    """Flush TensorBoard's files every N rows; null: every 10 seconds."""
    level: Literal["debug", "info", "warning", "error"] = "info"
    """Lowest level of messages on the terminal; the run's log.txt has all levels."""
    statistics_every_n_steps: Count | None = None
    """Record the sizes of gradients, weights and activations of each block every N updates; null disables it."""


class RuntimeConfig(Section):
    """Device, precision, random seed, checkpoints, evaluation, samples and logging."""

    seed: Annotated[int, Field(ge=0, lt=1 << 63)] = 42
    """Random seed of the initial weights, the order of the data, and dropout."""
    device: Literal["auto", "cuda", "mps", "cpu"] = "auto"
    """Device; auto: the first of cuda, mps, cpu that is available."""
    precision: Literal["auto", "fp32", "bf16", "fp16", "mixed"] = "auto"
    """Precision of matrix products (weights and optimizer state stay float32). mixed: bf16 if the device has it,
    else fp16 on CUDA, else bf16; auto: mixed on CUDA devices with bf16, fp32 elsewhere."""
    tf32: bool = False
    """Use TF32 for float32 products on CUDA: inputs are rounded to 10 mantissa bits; faster, less precise."""
    recompute: Literal["none", "block", "selective"] = "none"
    """Activation checkpointing, to save memory: recompute whole blocks, or (selective) all but matrix products."""
    deterministic: bool = False
    """On CUDA, use deterministic kernels only. The CPU is always bit-exact."""
    log_every_n_steps: Count = 10
    """Write metrics every N updates."""
    max_nonfinite_steps: Count = 20
    """Stop after N consecutive updates with non-finite gradients. Such updates are skipped."""
    checkpoint: CheckpointConfig = CheckpointConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    sample: SampleConfig | None = SampleConfig()
    """Write sample text at every evaluation; null disables it."""
    logging: LoggingConfig = LoggingConfig()


class RunConfig(Section):
    """All settings of a run. Only the code that builds a run receives them; each part receives its section."""

    model: ModelConfig = Field(default_factory=ModelConfig)
    tokenizer: TokenizerConfig = TokenizerConfig()
    data: DataConfig = DataConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    optimizer: OptimizerConfig = MuonConfig()
    scheduler: SchedulerConfig = SchedulerConfig()
    runtime: RuntimeConfig = RuntimeConfig()

    @property
    def sequence_length(self) -> int:
        """Tokens per row."""
        return self.data.sequence_length or self.model.max_position_embeddings

    @model_validator(mode="after")
    def _check(self) -> Self:
        # of a run that starts from a checkpoint the context is known when that is read
        if self.runtime.checkpoint.init_from is None and self.sequence_length > self.model.max_position_embeddings:
            raise ValueError(
                f"data.sequence_length={self.sequence_length} exceeds model.max_position_embeddings="
                f"{self.model.max_position_embeddings}; raise that, or set data.sequence_length=null"
            )
        if self.scheduler.min_lr > self.optimizer.learning_rate:
            raise ValueError(
                f"scheduler.min_lr={self.scheduler.min_lr:g} is more than the peak, "
                f"optimizer.learning_rate={self.optimizer.learning_rate:g}; lower scheduler.min_lr"
            )
        if self.model.tie_word_embeddings and self.optimizer.learning_rate_scales.get("head", 1.0) != 1.0:
            raise ValueError(
                "optimizer.learning_rate_scales.head changes nothing: the head is the embedding "
                "(model.tie_word_embeddings); set it to 1, and scale embedding instead"
            )
        totals = ("total_steps", "total_tokens", "total_epochs", "total_seconds")
        ends = [name for name in totals if getattr(self.scheduler, name) is not None]
        if len(ends) > 1:
            raise ValueError(
                f"scheduler has more than one end: {', '.join(ends)}; keep one, set the others to null"
            )
        return self
