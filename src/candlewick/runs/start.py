"""A run that starts from a checkpoint's weights takes its model and tokenizer over; nothing may contradict them.

checkpoint/state.json      -> the model section (of a folder from elsewhere: config.json); what needs no weights is
                              free: dropout, context and angles of the positions, windows, more vocabulary rows
checkpoint/tokenizer.json  -> the tokenizer; for chats it gets the tokens that it lacks

A run that goes on takes them from its own newest checkpoint, so that its parent may be gone by then.
"""

from dataclasses import replace
from pathlib import Path

from pydantic import ValidationError

from candlewick.artifacts.manifest import MANIFEST, canonical_json, file_sha256, read_manifest
from candlewick.checkpoint.huggingface import from_hugging_face
from candlewick.checkpoint.layout import STATE, resolve
from candlewick.checkpoint.load import open_start, read_state
from candlewick.checkpoint.safetensors import INDEX, MODEL
from candlewick.config import ModelConfig, RunConfig
from candlewick.data.rows.batches import BatchPlan
from candlewick.errors import CheckpointError, ConfigError
from candlewick.hub import SCHEME, open_repo, parse_uri
from candlewick.parallel.env import detect
from candlewick.runs.tokens import first_tokenizer
from candlewick.tokenizer.bpe import Tokenizer, open_tokenizer
from candlewick.train.budget import planned_steps

_FREE = {
    *("attn_dropout", "residual_dropout", "vocab_size", "max_position_embeddings"),
    *("rope_theta", "rope_scaling", "sliding_window", "full_attention_every"),
}
_SAME_ANGLES = {"preapply", "on_the_fly"}  # of rope_mode


def begin(config: RunConfig, newest: Path | None) -> tuple[RunConfig, dict[str, str]]:
    """Return a run's config with what it takes over, and its parent's id as "parent" if it has one.

    `newest` is the newest checkpoint of a run that goes on. Raises ConfigError for another parent than it began
    with, and for settings that would stop the run as soon as its text is prepared.
    """
    start, parent = config.runtime.checkpoint.init_from, dict[str, str]()
    if newest is not None:
        saved = read_state(newest)["config"].get("runtime", {}).get("checkpoint", {}).get("init_from")
        if start is not None and saved is not None and _is_pinned(start, saved):
            start = saved
        if saved != start:
            raise ConfigError(
                f"the run of {newest} has runtime.checkpoint.init_from={saved}, it goes on with {start}",
                "set it to what the run began with, or resume without --config",
            )
        parent = {name: sha256 for name, sha256 in read_manifest(newest).inputs.items() if name == "parent"}
    elif start is not None:
        if start.startswith(SCHEME):
            start = str(replace(parse_uri(start), revision=open_repo(start).commit))
        folder = open_start(start)
        weights = folder / (MODEL if (folder / MODEL).is_file() else INDEX)
        is_ours = (folder / MANIFEST).is_file()
        parent = {"parent": read_manifest(folder).id if is_ours else file_sha256(weights)}
    if start is not None:
        checkpoint = config.runtime.checkpoint.model_copy(update={"init_from": start})
        runtime = config.runtime.model_copy(update={"checkpoint": checkpoint})
        config = config.model_copy(update={"runtime": runtime})
        config = starting_from(config, newest or open_start(start), first_tokenizer(config.data))
    plan = BatchPlan.of(config.data, config.sequence_length, detect(config.runtime).world_size)
    planned_steps(config.scheduler, plan, sequence_length=config.sequence_length, epoch_rows=1)
    return config, parent


def _is_pinned(start: str, saved: str) -> bool:
    """Whether `saved` is the address `start` with the commit that its branch had when the run began."""
    if not (start.startswith(SCHEME) and saved.startswith(SCHEME)):
        return False
    ours, theirs = parse_uri(start), parse_uri(saved)
    return (ours.name, ours.path) == (theirs.name, theirs.path) and len(ours.revision or "") != len(
        theirs.revision or ""
    )


def starting_from(config: RunConfig, checkpoint: Path, tokenizer: Path | None) -> RunConfig:
    """Return the config with the model and the tokenizer of a checkpoint; `tokenizer` is that of the data, if any.

    Raises ConfigError for a setting of the model that says otherwise, and for another tokenizer.
    """
    folder = resolve(checkpoint)
    shape, rows = from_hugging_face(folder / "config.json")
    saved = saved_config(folder)
    model = _combine(config.model, shape if saved is None else saved.model, folder)
    base = Tokenizer.load(folder)
    given = config.tokenizer.tokenizer_json or tokenizer
    loaded = open_tokenizer(config.tokenizer) or (base if tokenizer is None else Tokenizer.load(tokenizer))
    if loaded.sha256 not in (base.sha256, base.with_chat_tokens().sha256):
        raise ConfigError(
            f"{given or config.tokenizer.vocab} has sha256 {loaded.sha256[:12]}, the tokenizer of {folder} has "
            f"{base.sha256[:12]}",
            "leave tokenizer.tokenizer_json null, and prepare token datasets with the checkpoint's tokenizer",
        )
    size = (loaded.with_chat_tokens() if config.data.format == "chat" else loaded).vocab_size
    if (wanted := model.vocab_size) is None:
        wanted = rows if rows >= size else -(-size // 64) * 64
    elif wanted < rows:
        raise ConfigError(
            f"model.vocab_size={wanted} is smaller than the {rows} rows of {folder}", "leave it null, or raise it"
        )
    update = {
        "model": model.model_copy(update={"vocab_size": wanted}),
        "tokenizer": config.tokenizer.model_copy(update={"tokenizer_json": given or folder}),
    }
    try:
        started = RunConfig.model_validate(config.model_copy(update=update).model_dump())
    except ValidationError as error:
        raise ConfigError(f"the settings do not fit the model of {folder}: {error.errors()[0]['msg']}") from None
    if (length := started.sequence_length) > (longest := started.model.max_position_embeddings):
        raise ConfigError(
            f"data.sequence_length={length} exceeds the context of {folder}, {longest} tokens",
            "lower it, or raise model.max_position_embeddings, best with model.rope_scaling",
        )
    return started


def saved_config(folder: Path) -> RunConfig | None:
    """Return the resolved config of the run that wrote a checkpoint; None for one that does not say."""
    if not (folder / STATE).is_file():
        return None
    try:
        return RunConfig.model_validate_json(canonical_json(read_state(folder).get("config")))
    except ValueError as error:
        raise CheckpointError(
            f"{folder / STATE} holds settings that this version does not read: {error}"
        ) from None


def _combine(written: ModelConfig, shape: ModelConfig, folder: Path) -> ModelConfig:
    """Lay what the user wrote over the checkpoint's shape where that is free. Raises ConfigError elsewhere."""
    given = {name: getattr(written, name) for name in ModelConfig.model_fields if name in written.model_fields_set}
    free = _FREE | ({"rope_mode"} if {written.rope_mode, shape.rope_mode} <= _SAME_ANGLES else set())
    different = [name for name in given if name not in free and given[name] != getattr(shape, name)]
    if different:
        shown = (f"model.{name}={given[name]} (the checkpoint has {getattr(shape, name)})" for name in different)
        raise ConfigError(
            f"the settings contradict the model of {folder}: {', '.join(shown)}",
            f"leave out {', '.join(f'model.{name}' for name in different)}: a run that starts from a checkpoint "
            "takes its model over",
        )
    return shape.model_copy(update={"vocab_size": None, **{name: given[name] for name in free & given.keys()}})
