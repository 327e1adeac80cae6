"""From a resolved config and open data to a Trainer: every object of a run is made here, in order."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from candlewick.checkpoint.layout import checkpoint_directory, newest_valid, sweep
from candlewick.checkpoint.load import STATE_VERSION, Resumed, resume
from candlewick.checkpoint.save import Snapshot, weights_of
from candlewick.config import BestConfig, DataConfig, RunConfig
from candlewick.data.loader import Loader, restored_samples
from candlewick.data.token_shards import TokenSplit
from candlewick.errors import CheckpointError, ConfigError
from candlewick.model.flops import flops_per_token
from candlewick.model.initialize import initialize
from candlewick.model.transformer import Transformer
from candlewick.optim.build import Optimizer, build_optimizer
from candlewick.parallel.apply import parallelize
from candlewick.parallel.env import Distributed, detect, quiet_allocator
from candlewick.parallel.fsdp import gathered
from candlewick.tokenizer.bpe import Tokenizer
from candlewick.train.budget import planned_steps
from candlewick.train.evaluate import evaluate
from candlewick.train.objective import NextTokenLoss
from candlewick.train.reporter import Reporter, build_telemetry
from candlewick.train.state import TrainState, random_state, restore_random_state
from candlewick.train.trainer import Parts, Trainer

logger = logging.getLogger(__name__)

Sampler = Callable[[Transformer], list[tuple[str, str]]]


@dataclass(frozen=True, slots=True)
class TrainingData:
    """What a run reads: opened and checked."""

    tokenizer: Tokenizer
    train: TokenSplit
    validation: TokenSplit
    dataset_id: str


def build(
    config: RunConfig,
    data: TrainingData,
    run_dir: Path,
    *,
    resume_run: bool = False,
    sampler: Sampler | None = None,
) -> Trainer:
    """Make a Trainer, at step 0 or where the newest valid checkpoint of `run_dir` stands.

    `sampler` writes sample text with the model. Raises ConfigError, CheckpointError, EnvironmentFault.
    """
    quiet_allocator()
    distributed = detect(config.runtime)
    rows = global_batch_rows(config.data, config.sequence_length, distributed.world_size)
    planned = planned_steps(
        config.scheduler, tokens_per_update=rows * config.sequence_length, split_tokens=data.train.num_tokens
    )
    vocab_size = vocabulary_rows(config.model.vocab_size, data.tokenizer)
    objective = _build_objective(config, data, vocab_size, distributed)
    optimizer = build_optimizer(objective.model, config.optimizer)
    state, samples = TrainState(total_steps=planned), 0
    checkpoints = checkpoint_directory(run_dir, config.runtime.checkpoint.directory)
    best = (config.runtime.evaluation.best or BestConfig()).directory or run_dir / "best"
    sweep(checkpoints)
    sweep(best)
    if resume_run:
        resumed = resume(objective.model, newest_valid(checkpoints))
        _check_same_shape(config, resumed)
        state = _restore(config, resumed, optimizer, planned, distributed.device)
        samples = restored_samples(
            resumed.state["loader"], data.train, sequence_length=config.sequence_length, seed=config.runtime.seed
        )
    loader = Loader(
        data.train,
        sequence_length=config.sequence_length,
        micro_batch_size=config.data.micro_batch_size,
        global_batch_size=rows,
        seed=config.runtime.seed,
        rank=distributed.rank,
        world_size=distributed.world_size,
        samples=samples,
    )
    flops = flops_per_token(config.model, vocab_size, config.sequence_length)
    telemetry = build_telemetry(flops, distributed.device, distributed.world_size)
    parts = Parts(
        objective=objective,
        optimizer=optimizer,
        peak_learning_rate=config.optimizer.learning_rate,
        loader=loader,
        reporter=Reporter(config.runtime, run_dir, telemetry, loader, state.step if resume_run else None),
        evaluate=_evaluator(objective, data.validation, config),
        sample=_sampler(objective, sampler),
        snapshot=_Snapshotter(config, data, objective, optimizer, loader, state),
        checkpoints=checkpoints,
        best=best,
    )
    return Trainer(parts, state, config.runtime, config.scheduler, config.optimizer.max_grad_norm)


@dataclass(frozen=True, slots=True)
class _Snapshotter:
    """Collects what a checkpoint holds, at the moment it is called."""

    config: RunConfig
    data: TrainingData
    objective: NextTokenLoss
    optimizer: Optimizer
    loader: Loader
    state: TrainState

    def __call__(self) -> Snapshot:
        model, tokenizer = self.objective.model, self.data.tokenizer
        device = next(model.parameters()).device
        return Snapshot(
            step=self.state.step,
            weights=weights_of(model),
            optimizer=self.optimizer.named_state(),
            state={
                "version": STATE_VERSION,
                "counters": self.state.to_json(),
                "loader": self.loader.state(),
                "random": random_state(device),
                "config": self.config.model_dump(mode="json"),
                "threads": torch.get_num_threads(),
            },
            model_config=self.config.model,
            vocab_size=model.vocab_size,
            tokenizer=tokenizer,
            inputs={"tokens": self.data.dataset_id, "tokenizer": tokenizer.sha256},
        )


def _restore(
    config: RunConfig, resumed: Resumed, optimizer: Optimizer, planned: int | None, device: torch.device
) -> TrainState:
    """Put everything but the weights and the place in the data back; return the counters."""
    optimizer.load_named_state(resumed.optimizer)
    restore_random_state(resumed.state["random"], device)
    state = TrainState.from_json(resumed.state["counters"])
    if (threads := resumed.state["threads"]) != torch.get_num_threads():
        logger.warning(
            "the run had %d threads, this process has %d: results may differ by rounding",
            threads,
            torch.get_num_threads(),
        )
    # a time budget became a number of steps when the run was young; any other end, or another budget, is read anew
    saved: dict[str, Any] = resumed.state["config"].get("scheduler", {})
    same_budget = saved.get("total_seconds") == config.scheduler.total_seconds
    return state if planned is None and same_budget else replace(state, total_steps=planned)


def vocabulary_rows(configured: int | None, tokenizer: Tokenizer) -> int:
    """Return the rows of the embedding: as configured, else the tokenizer's size rounded up to 64.

    Raises ConfigError when the configured number cannot hold the tokenizer.
    """
    if configured is None:
        return -(-tokenizer.vocab_size // 64) * 64
    if configured < tokenizer.vocab_size:
        raise ConfigError(
            f"model.vocab_size={configured} is smaller than the tokenizer's {tokenizer.vocab_size} tokens",
            "leave model.vocab_size null, or use the tokenizer that belongs to it",
        )
    return configured


def global_batch_rows(data: DataConfig, sequence_length: int, world_size: int) -> int:
    """Return the rows of one update over all ranks. Raises ConfigError unless whole micro-batches fill it."""
    per_pass = data.micro_batch_size * world_size
    rows = data.global_batch_size or per_pass
    if data.global_batch_tokens is not None:
        rows = data.global_batch_tokens // sequence_length // per_pass * per_pass
    if rows == 0 or rows % per_pass:
        raise ConfigError(
            f"the global batch ({data.global_batch_size or data.global_batch_tokens}) is not a whole number of "
            f"micro-batches of {data.micro_batch_size} rows of {sequence_length} tokens on {world_size} ranks",
            "change data.micro_batch_size, data.global_batch_size or data.global_batch_tokens",
        )
    return rows


def _build_objective(
    config: RunConfig, data: TrainingData, vocab_size: int, distributed: Distributed
) -> NextTokenLoss:
    """Build the seeded model, put the loss around it, apply precision and sharding."""
    torch.manual_seed(config.runtime.seed)
    with torch.device("meta"):
        model = Transformer(config.model, vocab_size)
    model.to_empty(device=distributed.device)
    model.init_buffers()
    initialize(model, config.runtime.seed)
    objective = NextTokenLoss(model, num_tokens=data.tokenizer.vocab_size)
    parallelize(objective, model.model.layers, distributed)
    return objective.train()


def _sampler(objective: NextTokenLoss, sampler: Sampler | None) -> Callable[[], list[tuple[str, str]]] | None:
    if sampler is None:
        return None

    def sample() -> list[tuple[str, str]]:
        with gathered(objective):
            return sampler(objective.model)

    return sample


def _evaluator(
    objective: NextTokenLoss, split: TokenSplit, config: RunConfig
) -> Callable[[int | None], dict[str, float]]:

    def run(max_batches: int | None) -> dict[str, float]:
        # gathered: what is saved after it are the sharded float32 weights, not the ones in the compute dtype
        with gathered(objective):
            return evaluate(
                objective,
                split,
                sequence_length=config.sequence_length,
                micro_batch_size=config.data.micro_batch_size,
                max_batches=max_batches,
            )

    return run


def _check_same_shape(config: RunConfig, resumed: Resumed) -> None:
    """Refuse to go on with another model, by name of what differs. Raises CheckpointError."""
    saved: dict[str, Any] = resumed.state["config"].get("model", {})
    now = config.model_dump(mode="json")
    different = [
        f"model.{key} (was {saved.get(key)!r}, is {value!r})"
        for key, value in now["model"].items()
        if value != saved.get(key)
    ]
    if different:
        raise CheckpointError(
            f"{resumed.folder} was written with other settings: {', '.join(different)}",
            "put them back, or start a new --run-dir",
        )
