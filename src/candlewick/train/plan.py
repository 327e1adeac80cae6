"""The plan of a run, and what a run starts from. Nothing in it changes: `build` copies the counters."""

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from candlewick.checkpoint.layout import checkpoint_directory
from candlewick.checkpoint.open import Checkpoint
from candlewick.config import ModelConfig, RunConfig
from candlewick.data.rows.batches import BatchSchedule
from candlewick.data.rows.row_order import RowOrder
from candlewick.data.tokens.dataset import TokenSplit
from candlewick.errors import ConfigError
from candlewick.model.flops import flops_per_token, model_size
from candlewick.tokenizer.bpe import Tokenizer

if TYPE_CHECKING:
    from candlewick.parallel.device import Distributed
    from candlewick.train.state import TrainState


def new_run_id() -> str:
    """Return a random id for a run, which its checkpoints and its config.yaml name."""
    return uuid.uuid4().hex[:12]


@dataclass(frozen=True, slots=True)
class Fresh:
    """The start from random weights."""

    checkpoint: None = None
    parent: None = None
    run: str = field(default_factory=new_run_id, compare=False)


@dataclass(frozen=True, slots=True)
class InitFrom:
    """The start from the weights of another checkpoint."""

    checkpoint: Checkpoint
    parent: str  # the id of that checkpoint
    run: str = field(default_factory=new_run_id, compare=False)


@dataclass(frozen=True, slots=True)
class Resume:
    """The start of a run that goes on from its own newest checkpoint."""

    checkpoint: Checkpoint
    parent: str | None  # the id of the checkpoint that the run once started from
    tokenizer_sha256: str  # of the tokenizer that the run was trained with
    run: str  # the id of the run


Start = Fresh | InitFrom | Resume


@dataclass(frozen=True, slots=True)
class TrainingData:
    """The token splits that a run reads, opened and checked."""

    train: tuple[TokenSplit, ...]  # one split, or one per entry of data.mixture
    validation: TokenSplit
    validation_sets: Mapping[str, TokenSplit]

    @property
    def validation_splits(self) -> dict[str, TokenSplit]:
        """Return what is evaluated on, by name; the main one has the empty name."""
        return {"": self.validation, **self.validation_sets}

    @property
    def validation_ids(self) -> dict[str, str]:
        """Return the id of each split that is evaluated on, by name."""
        return {name: f"{split.dataset_id} {split.name}" for name, split in self.validation_splits.items()}


@dataclass(frozen=True, slots=True)
class RunPlan:
    """A complete run."""

    config: RunConfig
    run_dir: Path
    start: Start
    tokenizer: Tokenizer
    vocab_size: int  # rows of the embedding
    data: TrainingData
    device: "Distributed"
    order: RowOrder
    batches: BatchSchedule
    state: "TrainState"  # the counters that the run begins with; a Trainer counts in a copy
    max_steps: int | None  # updates that data.max_repetitions allows; None: any number

    @property
    def num_parameters(self) -> int:
        """Return the stored numbers of the model; a tied embedding counts once."""
        return num_parameters(self.config.model, self.vocab_size)


def num_parameters(model: ModelConfig, vocab_size: int) -> int:
    """Return the stored numbers of a model; a tied embedding counts once."""
    return model_size(model, vocab_size).total


def flops_of_a_token(model: ModelConfig, vocab_size: int, sequence_length: int) -> int:
    """Return the FLOPs of training on one token, forward and backward: see `model.flops`."""
    return flops_per_token(model, vocab_size, sequence_length).strict


def checkpoint_directories(config: RunConfig, run_dir: Path) -> tuple[Path, Path | None]:
    """Return the folder of a run's checkpoints, and the configured one for links to the best, if there is one."""
    best = config.runtime.evaluation.best
    return checkpoint_directory(run_dir, config.runtime.checkpoint.directory), best and best.directory


def embedding_rows(model: ModelConfig, tokenizer: Tokenizer) -> int:
    """Return the rows of the embedding: as configured, else the tokenizer's size rounded up to 64.

    Raises ConfigError when the configured number cannot hold the tokenizer.
    """
    configured, tokens = model.vocab_size, tokenizer.vocab_size
    if configured is None:
        return -(-tokens // 64) * 64
    if configured < tokens:
        raise ConfigError(
            f"model.vocab_size={configured} is smaller than the tokenizer's {tokens} tokens",
            "leave model.vocab_size null, or use the tokenizer that belongs to it",
        )
    return configured
