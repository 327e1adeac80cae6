"""Every setting of a run: one frozen, strict tree. An unknown key or a wrong type is an error.

    RunConfig
    |- model       ModelConfig       the shape of the transformer
    |- tokenizer   TokenizerConfig   which vocabulary, or how to train one
    |- data        DataConfig        text or token shards, and how they become batches
    |- optimizer   MuonConfig | AdamWConfig | AdamConfig | SGDConfig | LionConfig, told apart by `algorithm`
    |- scheduler   SchedulerConfig   learning rate over time, and when the run ends
    `- runtime     RuntimeConfig     device, precision, seed, checkpoints, evaluation, logging

`config.load` reads it. Off is null. Relations between settings are checked here, those with files where they are
opened.
"""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from candlewick.config.data import DataConfig, TokenizerConfig
from candlewick.config.model import ModelConfig
from candlewick.config.optimizer import MuonConfig, OptimizerConfig, SchedulerConfig
from candlewick.config.section import Count, Positive, Section


class CheckpointConfig(Section):
    """When to save, and what to keep."""

    directory: Path | None = None
    """Where; null: `checkpoints` in the run folder."""
    every_n_epochs: Count | None = None
    """Save whenever so many more passes over the training rows are complete; null: never because of that."""
    every_n_steps: Count | None = Field(default_factory=lambda own: None if own["every_n_epochs"] else 1000)
    """Save after so many updates; the end of the run and a stop always save. Null: by epochs, or only then."""
    max_keep: Count | None = 3
    """Newest checkpoints to keep; null: all."""
    init_from: str | None = None
    """Start a new run from the weights, model and tokenizer of this checkpoint, or of `hf://OWNER/NAME@REVISION`;
    its optimizer is left behind."""


class BestConfig(Section):
    """Keeping the checkpoint with the lowest validation loss."""

    directory: Path | None = None
    """Where; null: `best` in the run folder."""
    max_keep: Count | None = 1
    """How many to keep; null: all."""


class EvaluationConfig(Section):
    """When to evaluate, and on how much."""

    every_n_epochs: Count | None = None
    """Evaluate whenever so many more passes over the training rows are complete; null: never because of that."""
    every_n_steps: Count | None = Field(default_factory=lambda own: None if own["every_n_epochs"] else 250)
    """Evaluate after so many updates; null: by epochs, or at the end only."""
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
    min_p: Annotated[float, Field(gt=0.0, le=1.0)] | None = None
    """Sample among tokens at least so probable as a share of the likeliest (arXiv:2407.01082); null: all."""
    repetition_penalty: Positive = 1.0
    """Makes tokens that were there before less likely (arXiv:1909.05858 section 4.1); 1: not."""
    stop: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    """End before any of these texts."""


class LoggingConfig(Section):
    """Where progress goes besides `metrics.jsonl`, which is always written."""

    enable_stdout: bool = True
    """Show progress on the terminal."""
    tensorboard: bool | Path = False
    """Write TensorBoard files: true puts them into `tensorboard` in the run folder, a path there."""
    tensorboard_flush_every_n: Count | None = None
    """Bring TensorBoard's files up to date after so many rows; null: every 10 seconds."""
    level: Literal["debug", "info", "warning", "error"] = "info"
    """Least severe messages that the terminal shows; the run's log.txt has all of them."""
    statistics_every_n_steps: Count | None = None
    """Record size of gradients, weights and activations of each block after so many updates; null: never."""


class RuntimeConfig(Section):
    """Device, precision, seed, and what happens around the training steps."""

    seed: Annotated[int, Field(ge=0, lt=1 << 63)] = 42
    """Initial weights, order of the data, dropout."""
    device: Literal["auto", "cuda", "mps", "cpu"] = "auto"
    """auto: the first of cuda, mps, cpu that is there."""
    precision: Literal["auto", "fp32", "bf16", "fp16", "mixed"] = "auto"
    """Of the products; weights and optimizer stay float32. mixed: bf16 if the device has it, else fp16 on CUDA,
    else bf16; auto: mixed on CUDA devices with bf16, fp32 elsewhere."""
    tf32: bool = False
    """Let float32 products on CUDA round their inputs to 10 bits: some 5 times faster, with less precision."""
    recompute: Literal["none", "block", "selective"] = "none"
    """Make activations again in the backward pass to save memory: of whole blocks, or all but the products."""
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
        # of a run that starts from a checkpoint the context is known when that is read
        if self.runtime.checkpoint.init_from is None and self.sequence_length > self.model.max_position_embeddings:
            raise ValueError(
                f"data.sequence_length={self.sequence_length} exceeds "
                f"model.max_position_embeddings={self.model.max_position_embeddings}"
            )
        if self.scheduler.min_lr > self.optimizer.learning_rate:
            raise ValueError(
                f"scheduler.min_lr={self.scheduler.min_lr:g} is more than the peak, "
                f"optimizer.learning_rate={self.optimizer.learning_rate:g}"
            )
        if self.model.tie_word_embeddings and self.optimizer.learning_rate_scales.get("head", 1.0) != 1.0:
            raise ValueError(
                "optimizer.learning_rate_scales.head changes nothing: the head is the embedding "
                "(model.tie_word_embeddings); scale embedding instead"
            )
        totals = ("total_steps", "total_tokens", "total_epochs", "total_seconds")
        given = [name for name in totals if getattr(self.scheduler, name) is not None]
        if len(given) > 1:
            raise ValueError(
                f"scheduler has more than one end: {', '.join(given)}; keep one, set the others to null"
            )
        return self
