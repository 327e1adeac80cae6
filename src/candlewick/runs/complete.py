"""From prepared data to a trained model: the plan is completed, and the Trainer runs.

    PreparedRun --complete_plan--> RunPlan --train.build--> Trainer

It stands apart from `runs.train` because it needs torch.
"""

import logging
import re
from collections.abc import Sequence
from functools import partial
from typing import Any

from candlewick.checkpoint.layout import set_aside_after, write_config
from candlewick.config import RunConfig
from candlewick.data.rows.batches import BatchSchedule
from candlewick.data.rows.loader import saved_rows
from candlewick.data.rows.row_order import RowOrder
from candlewick.data.tokens.dataset import TokenDataset, TokenSplit
from candlewick.data.tokens.overlap import count_overlap
from candlewick.errors import ConfigError, DataError
from candlewick.generate.engine import sample_text
from candlewick.parallel.device import find_distributed
from candlewick.runs.card import write_cards
from candlewick.runs.prepare import PreparedRun
from candlewick.runs.record import write_record
from candlewick.runs.sources import training_sources
from candlewick.tokenizer.bpe import Tokenizer
from candlewick.train.budget import learning_rate_share, max_steps_for_repetitions, planned_steps
from candlewick.train.build import build
from candlewick.train.guards import oom_as_machine_error
from candlewick.train.plan import Resume, RunPlan, TrainingData, checkpoint_directories, embedding_rows
from candlewick.train.resume import changes
from candlewick.train.state import TrainState
from candlewick.train.trainer import Sampler

_MANY_PASSES = 100.0
_PROMPT_SEARCH, _PROMPT_TOKENS = 65_536, 24
_PROMPT = re.compile(r"\s*(\S+\s+){,4}\S+")
_SEALED_PASSES = 1.5  # over a text of which there may be more: up to here rounding explains them
logger = logging.getLogger(__name__)


def train_prepared(prepared: PreparedRun) -> dict[str, Any]:
    """Train a run whose text is prepared; the caller holds its lock. See `runs.train`."""
    plan = complete_plan(prepared)
    if isinstance(plan.start, Resume):  # before metrics are cut: a start that ends early must not forget it
        folder = plan.start.checkpoint.folder.resolve()
        if folder.parent == checkpoint_directories(plan.config, plan.run_dir)[0].resolve():
            set_aside_after(folder, plan.state.step)
    prompts = sample_prompts(plan.config, plan.tokenizer, plan.data.validation)
    sampler, describe = make_sampler(plan.config, plan.tokenizer, prompts), partial(write_cards, plan.run_dir)
    trainer = build(plan, sampler, describe)
    try:
        # only now: settings that the run cannot go on with must not replace its own
        write_config(plan.config, plan.run_dir, plan.start.run)
        write_record(prepared, plan)
        metrics = trainer.run()
        if trainer.saver.newest is not None:  # its card knows the last evaluation now
            describe(trainer.saver.newest)
    finally:
        trainer.loader.close()
    state = trainer.state
    return {
        "steps": state.step,
        "tokens": state.tokens,
        "train_seconds": state.train_seconds,
        "skipped_steps": state.skipped_steps,
        "metrics": metrics,
    }


@oom_as_machine_error()
def complete_plan(prepared: PreparedRun) -> RunPlan:
    """Return the complete plan of a run: on which device, in which batches, to which end.

    Raises ConfigError for a run that reads a source more often than it may and for a vocabulary that the model
    cannot hold, MachineError for a device that is not there or too little memory, DataError for data without a
    validation split or of another run, CheckpointError for counters of another version.
    """
    config, length = prepared.config, prepared.config.sequence_length
    data, device = open_training_data(prepared), find_distributed(config.runtime)
    order = RowOrder(data.train, config.data, sequence_length=length, seed=config.runtime.seed)
    state, batches = TrainState(), prepared.batches
    if isinstance(prepared.start, Resume):
        saved = prepared.start.checkpoint.state
        state = TrainState.from_json(saved["counters"])
        state.consecutive_nonfinite_steps = 0  # what is changed to mend them gets its chance
        batches = batches.resume_at(state.step, saved_rows(saved["loader"], order) if saved["loader"] else 0)
        if not saved["loader"]:
            logger.info("the data begins at its first row: the checkpoint was imported")
        # a time budget became a number of steps when the run was young; another budget is read anew
        if saved["config"].get("scheduler", {}).get("total_seconds") != config.scheduler.total_seconds:
            state.total_steps = None
    steps = planned_steps(config.scheduler, batches, sequence_length=length, epoch_rows=order.num_rows)
    state.total_steps = state.total_steps if steps is None else steps
    if isinstance(prepared.start, Resume):
        _check_resume(prepared.start, config, data, state)
    rows = embedding_rows(config.model, prepared.tokenizer)
    max_steps = _max_steps(config, batches, order, state.total_steps)
    _tell_unusual_length(prepared, data, batches, order, state.total_steps)
    if not isinstance(prepared.start, Resume):
        _tell_overlap(data)
    start, tokenizer = prepared.start, prepared.tokenizer
    return RunPlan(
        config, prepared.run_dir, start, tokenizer, rows, data, device, order, batches, state, max_steps
    )


def _check_resume(start: Resume, config: RunConfig, data: TrainingData, state: TrainState) -> None:
    """Look for the best loss anew if it cannot be compared; tell a jump of the learning rate.

    Raises ConfigError for an end before the updates that the run has made.
    """
    checkpoint, step = start.checkpoint, state.step
    assert checkpoint.config is not None, "a checkpoint of a run has one"
    if state.total_steps is not None and state.total_steps < step:
        raise ConfigError(
            f"the run has made {step:,} updates, its settings end it after {state.total_steps:,}",
            "raise scheduler.total_steps, or what else ends it",
        )
    main = data.validation_ids[""]
    is_other = checkpoint.state.get("validation", {}).get("", main) != main
    changed = changes(checkpoint.config, config)
    is_other |= any(change.rule.effect == "restarts best" for change in changed)
    if is_other:
        logger.warning("the validation differs from that before step %d: the lowest loss is looked for anew", step)
        state.best_loss = None
    saved_total = checkpoint.state["counters"].get("total_steps")
    before, now = (
        settings.optimizer.learning_rate * learning_rate_share(settings, step, total)
        for settings, total in ((checkpoint.config, saved_total), (config, state.total_steps))
    )
    if state.total_steps != step and abs(before - now) > 0.01 * max(before, now):
        logger.warning(
            "the learning rate after step %d is %.3g; as the run was before it was %.3g", step, now, before
        )


def _tell_unusual_length(
    prepared: PreparedRun, data: TrainingData, batches: BatchSchedule, order: RowOrder, total_steps: int | None
) -> None:
    """Warn of text that is read very often and of a warm-up that does not end.

    Raises DataError for a source that does not fill a row.
    """
    config, names = prepared.config, list(training_sources(prepared.config.data))
    for name, split in zip(names, data.train, strict=True):
        if split.parts[0].num_tokens < config.sequence_length:
            raise DataError(
                f"{name} has {split.num_tokens} tokens to train on, a row has {config.sequence_length}",
                "give more text, or lower data.sequence_length",
            )
    if total_steps is None:
        return
    repetitions = order.repetitions(batches.rows_after(total_steps))
    for name, split, times in zip(names, data.train, repetitions, strict=True):
        if "next" in prepared.datasets[name].manifest.details and times > _SEALED_PASSES:
            logger.warning(
                "%s has the first %d tokens of its source, which the run reads %.3g times: a larger "
                "data.max_tokens reads more of it",
                *(name, sum(part.num_tokens for part in split.parts), times),
            )
        elif times > _MANY_PASSES:
            logger.warning("the run reads %s %.4g times: a model learns so small a text by heart", name, times)
    warmup = config.scheduler.warmup_steps or 0
    if warmup > total_steps:
        steps = range(0, total_steps, max(1, total_steps // 100))
        peak = max(learning_rate_share(config, step, total_steps) for step in steps)
        logger.warning(
            "scheduler.warmup_steps=%d is longer than the run of %d updates: the learning rate reaches %.2g of "
            "its peak",
            *(warmup, total_steps, peak),
        )


def _tell_overlap(data: TrainingData) -> None:
    """Tell how many validation documents are trained on too. Text that is on both sides is on purpose."""
    trained = {split.dataset_id: split for split in data.train if split.document_ends}
    told = {*map(id, trained.values())}
    for name, split in {"": data.validation, **data.validation_sets}.items():
        if not split.document_ends or id(split) in told:
            continue
        told.add(id(split))
        found = count_overlap(list(trained.values()), split)
        if found.exact or found.near:
            logger.log(
                logging.WARNING if found.exact else logging.INFO,
                "of %d validation documents%s%s %d are trained on too, %d nearly",
                *(found.documents, f" of {name}" if name else "", " (a sample)" if found.is_sample else ""),
                *(found.exact, found.near),
            )


def _max_steps(config: RunConfig, batches: BatchSchedule, order: RowOrder, total_steps: int | None) -> int | None:
    """Return the updates that data.max_repetitions allows. Raises ConfigError when the run is longer."""
    limit = config.data.max_repetitions
    if limit is None:
        return None
    max_steps = max_steps_for_repetitions(limit, batches, order.repetitions)
    if total_steps is not None and total_steps > max_steps:
        times = order.repetitions(batches.rows_after(total_steps))
        number = times.index(max(times))
        source = f"data.mixture[{number}]" if config.data.mixture else "data.train_shards"
        raise ConfigError(
            f"{source} would be read {times[number]:.4g} times in {total_steps:,} updates, "
            f"data.max_repetitions={limit:g} allows {max_steps:,} updates",
            "shorten the run, give more text, or raise data.max_repetitions",
        )
    return max_steps


def open_training_data(prepared: PreparedRun) -> TrainingData:
    """Return the splits that a run reads.

    The main validation is `validation_shards`, else what the first source held out, if it did; of a mixture what
    each source held out is a set as well: `mixture_0`, `mixture_1` and so on. Raises DataError without any.
    """
    data, datasets = prepared.config.data, prepared.datasets
    sources = [datasets[name] for name in training_sources(data)]
    sets = {name: _validation(datasets[f"validation_{name}"], sources) for name in data.validation_sets}
    held_out = {
        f"mixture_{number}": source.split("validation")
        for number, source in enumerate(sources)
        if source.has_split("validation")
    }
    if data.mixture and "validation" not in datasets:
        sets |= held_out
    if "validation" in datasets:
        main = _validation(datasets["validation"], sources)
    else:
        main = next(iter(held_out.values()), None) or sources[0].split("validation")
    return TrainingData(tuple(source.split("train") for source in sources), main, sets)


def _validation(dataset: TokenDataset, sources: list[TokenDataset]) -> TokenSplit:
    """Return the split of a dataset that validates: its training split, unless that is trained on or empty."""
    is_source = any(dataset.id == source.id for source in sources)
    return dataset.split("train" if dataset.has_split("train") and not is_source else "validation")


def sample_prompts(config: RunConfig, tokenizer: Tokenizer, validation: TokenSplit) -> tuple[str, ...]:
    """Return the prompts of a run's samples: its own, or the first words of a document that is held out."""
    settings = config.runtime.sample
    if settings is None:
        return ()
    if settings.prompts is not None:
        return settings.prompts
    ids = validation.read_tokens(0, min(validation.num_tokens, _PROMPT_SEARCH)).tolist()
    start = ids.index(validation.delimiter_id) + 1 if validation.delimiter_id in ids else 0
    words = _PROMPT.match(tokenizer.decode(ids[start : start + _PROMPT_TOKENS]))
    return (words[0] if words else "",)


def make_sampler(config: RunConfig, tokenizer: Tokenizer, prompts: Sequence[str]) -> Sampler | None:
    """Return the function that writes samples; None: there are none. Raises ConfigError for too long a prompt."""
    settings, seed, context = config.runtime.sample, config.runtime.seed, config.model.max_position_embeddings
    if settings is None:
        return None
    for prompt in prompts:
        if (length := 1 + len(tokenizer.encode(prompt))) > context:
            raise ConfigError(
                f"the prompt {prompt[:40]!r} of runtime.sample has {length} tokens, the model reads {context}",
                "shorten it, or raise model.max_position_embeddings",
            )

    return lambda model: [(p, sample_text(model, tokenizer, p, settings, seed=seed)) for p in prompts]
