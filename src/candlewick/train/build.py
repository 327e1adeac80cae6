"""From a resolved config and open data to a Trainer: every object of a run is made here, in order."""

import logging
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from candlewick.checkpoint.huggingface import obstacle
from candlewick.checkpoint.layout import checkpoint_directory, newest_valid, sweep
from candlewick.checkpoint.load import STATE_VERSION, Resumed, initialize_from, open_start, resume
from candlewick.checkpoint.save import Snapshot, weights_of
from candlewick.config import BestConfig, RunConfig
from candlewick.data.rows.batches import BatchPlan
from candlewick.data.rows.loader import Loader
from candlewick.data.tokens.dataset import TokenSplit
from candlewick.errors import CheckpointError, ConfigError
from candlewick.model.flops import flops_per_token, model_size
from candlewick.model.initialize import initialize
from candlewick.model.transformer import Transformer
from candlewick.model.varlen import document_kernel
from candlewick.optim.build import Optimizer, build_optimizer
from candlewick.parallel.apply import parallelize
from candlewick.parallel.env import Distributed, detect, quiet_allocator
from candlewick.parallel.fsdp import full_tensor, unsharded
from candlewick.parallel.precision import warn_if_emulated
from candlewick.tokenizer.bpe import Tokenizer
from candlewick.train.budget import Course, most_steps, planned_steps
from candlewick.train.evaluate import evaluate_sets
from candlewick.train.guards import memory_faults
from candlewick.train.loss_scale import LossScale
from candlewick.train.objective import NextTokenLoss
from candlewick.train.reporter import Reporter, build_telemetry
from candlewick.train.state import TrainState, machine, random_state, restore_random_state
from candlewick.train.trainer import Parts, Trainer

logger = logging.getLogger(__name__)

Sampler = Callable[[Transformer], list[tuple[str, str]]]


@dataclass(frozen=True, slots=True)
class TrainingData:
    """What a run reads: opened and checked."""

    tokenizer: Tokenizer
    train: tuple[TokenSplit, ...]
    """One split, or one per entry of data.mixture."""
    validation: TokenSplit
    validation_sets: Mapping[str, TokenSplit]
    dataset_id: str
    parent: Mapping[str, str] = field(default_factory=dict[str, str])
    """The id of what the run began with, as "parent", if it did not begin anew."""

    @property
    def splits(self) -> dict[str, TokenSplit]:
        """What is evaluated on, by name; the main one has the empty name."""
        return {"": self.validation, **self.validation_sets}


@memory_faults()
def build(
    config: RunConfig,
    data: TrainingData,
    run_dir: Path,
    *,
    resume_run: bool = False,
    sampler: Sampler | None = None,
) -> Trainer:
    """Make a Trainer, at step 0 or where the newest valid checkpoint of `run_dir` stands.

    `sampler` writes sample text with the model. Raises ConfigError, CheckpointError, DataError, EnvironmentFault.
    """
    quiet_allocator()
    distributed = detect(config.runtime)
    _warn(config, distributed)
    plan = BatchPlan.of(config.data, config.sequence_length, distributed.world_size)
    loader = _build_loader(config, data, plan, distributed)
    course = Course(plan)
    state = TrainState(total_steps=_planned(config, course, loader))
    objective = _build_objective(config, data.tokenizer, distributed, is_new=not resume_run)
    optimizer = build_optimizer(objective.model, config.optimizer)
    checkpoints = checkpoint_directory(run_dir, config.runtime.checkpoint.directory)
    best = (config.runtime.evaluation.best or BestConfig()).directory or run_dir / "best"
    sweep(checkpoints)
    sweep(best)
    if resume_run:
        resumed = resume(objective.model, newest_valid(checkpoints))
        _check_same_shape(config, resumed)
        if resumed.state["loader"]:
            loader.restore(resumed.state["loader"])
        else:
            logger.info("the data begins at its first row: the checkpoint was imported")
        state = _restore(resumed, optimizer, distributed.device)
        course = Course(plan, state.step, loader.rows_read)
        # a time budget became a number of steps when the run was young; another end or budget is read anew
        saved: dict[str, Any] = resumed.state["config"].get("scheduler", {})
        planned, seconds = _planned(config, course, loader), config.scheduler.total_seconds
        if planned is not None or saved.get("total_seconds") != seconds:
            state.total_steps = planned
    flops = flops_per_token(config.model, objective.model.vocab_size, config.sequence_length)
    telemetry = build_telemetry(flops, distributed.device, distributed.world_size, course.rows_after)
    parts = Parts(
        objective=objective,
        optimizer=optimizer,
        loss_scale=LossScale(state, distributed.device) if distributed.compute_dtype == torch.float16 else None,
        loader=loader,
        course=course,
        max_steps=_max_steps(config, course, loader, state.total_steps),
        reporter=Reporter(config.runtime, run_dir, telemetry, loader, state.step if resume_run else None),
        evaluate=_evaluator(config, data, objective, optimizer),
        sample=_sampler(objective, optimizer, sampler),
        snapshot=_snapshotter(config, data, objective, optimizer, loader, state),
        checkpoints=checkpoints,
        best=best,
    )
    return Trainer(parts, state, config.runtime, config.scheduler, config.optimizer)


def forecast(config: RunConfig, data: TrainingData) -> tuple[int | None, int]:
    """Return the updates (None: a time budget decides) and the parameters of a new run, and build no model.

    Raises what `build` would raise about text, batches, the run's length and the vocabulary.
    """
    distributed = detect(config.runtime)
    plan = BatchPlan.of(config.data, config.sequence_length, distributed.world_size)
    with closing(_build_loader(config, data, plan, distributed)) as loader:
        steps = _planned(config, Course(plan), loader)
        _max_steps(config, Course(plan), loader, steps)
    return steps, model_size(config.model, vocabulary_rows(config.model.vocab_size, data.tokenizer)).total


def _snapshotter(
    config: RunConfig,
    data: TrainingData,
    objective: NextTokenLoss,
    optimizer: Optimizer,
    loader: Loader,
    state: TrainState,
) -> Callable[[], Snapshot]:
    device = next(objective.parameters()).device

    def snapshot() -> Snapshot:
        """Collect what a checkpoint holds. Averages, if there are, are its weights."""
        model, averages = objective.model, optimizer.averages
        return Snapshot(
            step=state.step,
            weights=weights_of(model) if averages is None else {n: full_tensor(a) for n, a in averages.items()},
            optimizer=optimizer.named_state(),
            state={
                "version": STATE_VERSION,
                "counters": state.to_json(),
                "loader": loader.state(),
                "random": random_state(device),
                "config": config.model_dump(mode="json"),
                **machine(device),
            },
            model_config=config.model,
            vocab_size=model.vocab_size,
            tokenizer=data.tokenizer,
            inputs={"tokens": data.dataset_id, "tokenizer": data.tokenizer.sha256, **data.parent},
        )

    return snapshot


def _restore(resumed: Resumed, optimizer: Optimizer, device: torch.device) -> TrainState:
    """Put everything but the weights and the place in the data back; return the counters."""
    optimizer.load_named_state(resumed.optimizer)
    restore_random_state(resumed.state["random"], device)
    state = TrainState.from_json(resumed.state["counters"])
    for name, value in machine(device).items():
        if (before := resumed.state.get(name, value)) != value:
            logger.warning("the run had %s=%s, now it is %s: results may differ by rounding", name, before, value)
    return state


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


def _warn(config: RunConfig, distributed: Distributed) -> None:
    """Say what is slower than it has to be, and what only candlewick will read."""
    warn_if_emulated(distributed, config.model.hidden_size)
    if config.model.attn_dropout > 0 and distributed.device.type == "cpu":
        logger.warning("model.attn_dropout: the CPU's flash attention has no dropout, a slower way is taken")
    if config.runtime.tf32 and distributed.device.type != "cuda":
        logger.warning("runtime.tf32: only CUDA devices have it, products are in float32")
    kind = distributed.device, distributed.compute_dtype, config.model.head_dim
    if config.data.document_mask and distributed.device.type == "cuda" and document_kernel(*kind) is None:
        logger.warning(
            "data.document_mask: no kernel takes all documents at once here, so each has one of its own"
        )
    if (setting := obstacle(config.model)) is not None:
        logger.warning("no class of Hugging Face says %s: only candlewick reads this run's checkpoints", setting)


def _build_loader(config: RunConfig, data: TrainingData, plan: BatchPlan, distributed: Distributed) -> Loader:
    return Loader(
        data.train,
        config.data,
        sequence_length=config.sequence_length,
        seed=config.runtime.seed,
        plan=plan,
        rank=distributed.rank,
        world_size=distributed.world_size,
    )


def _planned(config: RunConfig, course: Course, loader: Loader) -> int | None:
    length = config.sequence_length
    return planned_steps(config.scheduler, course, sequence_length=length, epoch_rows=loader.num_rows)


def _max_steps(config: RunConfig, course: Course, loader: Loader, total_steps: int | None) -> int | None:
    """Return the updates that data.max_repetitions allows. Raises ConfigError when the run is longer."""
    limit = config.data.max_repetitions
    if limit is None:
        return None
    most = most_steps(limit, course, loader.repetitions)
    if total_steps is not None and total_steps > most:
        times = loader.repetitions(course.rows_after(total_steps))
        number = times.index(max(times))
        source = f"data.mixture[{number}]" if config.data.mixture else "data.train_shards"
        raise ConfigError(
            f"{source} would be read {times[number]:.4g} times in {total_steps:,} updates, "
            f"data.max_repetitions={limit:g} allows {most:,} updates",
            "shorten the run, give more text, or raise data.max_repetitions",
        )
    return most


def _build_objective(
    config: RunConfig, tokenizer: Tokenizer, distributed: Distributed, *, is_new: bool
) -> NextTokenLoss:
    """Build the model, seeded or from other weights, put the loss around it, apply what comes from outside."""
    torch.manual_seed(config.runtime.seed)
    rows = vocabulary_rows(config.model.vocab_size, tokenizer)
    # what cannot fit fails at once, not after all of its layers were made
    torch.empty(model_size(config.model, rows).total, device=distributed.device)
    with torch.device("meta"):
        model = Transformer(config.model, rows)
    model.to_empty(device=distributed.device)
    model.init_buffers()
    initialize(model, config.runtime.seed)
    if is_new and config.runtime.checkpoint.init_from is not None:
        initialize_from(model, open_start(config.runtime.checkpoint.init_from))
    objective = NextTokenLoss(model, num_tokens=tokenizer.vocab_size)
    parallelize(objective, model, distributed, config.runtime.recompute)
    return objective.train()


def _sampler(
    objective: NextTokenLoss, optimizer: Optimizer, sampler: Sampler | None
) -> Callable[[], list[tuple[str, str]]] | None:
    if sampler is None:
        return None

    def sample() -> list[tuple[str, str]]:
        with optimizer.averaged(), unsharded(objective):
            return sampler(objective.model)

    return sample


def _evaluator(
    config: RunConfig, data: TrainingData, objective: NextTokenLoss, optimizer: Optimizer
) -> Callable[[int | None], dict[str, float]]:

    def run(max_batches: int | None) -> dict[str, float]:
        # unsharded: what is saved after it are the sharded float32 weights, not the ones in the compute dtype
        with optimizer.averaged(), unsharded(objective):
            return evaluate_sets(
                objective,
                data.splits,
                config.data,
                sequence_length=config.sequence_length,
                max_batches=max_batches,
            )

    return run


def _check_same_shape(config: RunConfig, resumed: Resumed) -> None:
    """Refuse to go on with another model, by name of what differs. Raises CheckpointError."""
    saved: dict[str, Any] = resumed.state["config"].get("model", {})
    now = config.model.model_dump(mode="json")
    different = [
        f"model.{key} (was {saved.get(key)!r}, is {value!r})"
        for key, value in now.items()
        if value != saved.get(key)
    ]
    if different:
        raise CheckpointError(
            f"{resumed.folder} was written with other settings: {', '.join(different)}",
            "put them back, or start a new --run-dir",
        )
