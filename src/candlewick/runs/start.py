"""The start of a run: from the weights of another checkpoint, or on from its own newest one.

A new run takes the model of the other checkpoint over. Settings may differ from it only in what needs no other
weights: dropout, context and angles of the positions, windows, more vocabulary rows. A run that goes on has the
settings of its checkpoint.
"""

from collections.abc import Sequence
from pathlib import Path

from candlewick.artifacts.manifest import read_manifest
from candlewick.checkpoint.layout import find_checkpoints
from candlewick.checkpoint.open import Checkpoint
from candlewick.config import ModelConfig, RunConfig
from candlewick.errors import ArtifactError, CheckpointError, ConfigError
from candlewick.hub import SCHEME, fetch_model, open_repo, parse_uri
from candlewick.runs.sources import dataset_tokenizer, encoding_tokenizer
from candlewick.tokenizer.bpe import Tokenizer
from candlewick.train.plan import InitFrom, Resume, new_run_id

MODEL_FILES = (
    *("config.json", "generation_config.json", "*.safetensors", "*.safetensors.index.json", "tokenizer.json"),
    *("tokenizer_config.json", "special_tokens_map.json", "vocab.json", "merges.txt", "chat_template.jinja"),
)
"""Names of the files that are fetched of a model on the Hub; none is code."""
_FREE_FIELDS = {
    *("attn_dropout", "residual_dropout", "vocab_size", "max_position_embeddings"),
    *("rope_theta", "rope_scaling", "sliding_window", "full_attention_every"),
}
_SAME_ANGLES = {"preapply", "on_the_fly"}  # of rope_mode


def find_model(source: str, files: Sequence[str] = MODEL_FILES) -> tuple[str, Path]:
    """Return the address, at its commit, and the folder of a model; of one on the Hub these files are fetched."""
    if not source.startswith(SCHEME):
        return source, Path(source)
    repo = open_repo(source)
    return str(repo.uri), fetch_model(repo, files)


def open_parent(config: RunConfig, source: str) -> tuple[RunConfig, InitFrom]:
    """Open the checkpoint that a run starts from; return the config with its address at a commit.

    Raises CheckpointError.
    """
    address, folder = find_model(source)
    checkpoint = Checkpoint.open(folder, need={"weights"})
    return config.replaced(runtime={"checkpoint": {"init_from": address}}), InitFrom(checkpoint, checkpoint.id)


def inherit_model(config: RunConfig, checkpoint: Checkpoint, tokenizer: Tokenizer) -> RunConfig:
    """Return the config with the model of a checkpoint, in which every token of the run's tokenizer has a row.

    Raises ConfigError for a setting that contradicts that model.
    """
    folder, saved, (shape, rows) = checkpoint.folder, checkpoint.config, checkpoint.shape
    model = _combine(config.model, shape if saved is None else saved.model, folder)
    vocab_size, num_tokens = model.vocab_size, encoding_tokenizer(tokenizer, config.data).vocab_size
    if vocab_size is None:
        vocab_size = rows if rows >= num_tokens else -(-num_tokens // 64) * 64
    elif vocab_size < rows:
        raise ConfigError(
            f"model.vocab_size={vocab_size} is smaller than the {rows} rows of {folder}",
            "leave it null, or raise it",
        )
    path = config.tokenizer.tokenizer_json or dataset_tokenizer(config.data) or folder
    try:
        config = config.replaced(model=model.replaced(vocab_size=vocab_size), tokenizer={"tokenizer_json": path})
    except ConfigError as error:
        raise ConfigError(f"the settings do not fit the model of {folder}: {error.problem}", error.fix) from None
    if (length := config.sequence_length) > (context := config.model.max_position_embeddings):
        raise ConfigError(
            f"data.sequence_length={length} exceeds the context of {folder}, {context} tokens",
            "lower it, or raise model.max_position_embeddings, best with model.rope_scaling",
        )
    return config


def _combine(settings: ModelConfig, shape: ModelConfig, folder: Path) -> ModelConfig:
    """Return the shape of a checkpoint with the settings that are set and free. Raises ConfigError for others."""
    values = {n: getattr(settings, n) for n in ModelConfig.model_fields if n in settings.model_fields_set}
    same_angles = {settings.rope_mode, shape.rope_mode} <= _SAME_ANGLES
    free = _FREE_FIELDS | ({"rope_mode"} if same_angles else set())
    different = [name for name in values if name not in free and values[name] != getattr(shape, name)]
    if different:
        pairs = (f"model.{name}={values[name]} (the checkpoint has {getattr(shape, name)})" for name in different)
        raise ConfigError(
            f"the settings contradict the model of {folder}: {', '.join(pairs)}",
            f"leave out {', '.join(f'model.{name}' for name in different)}: a run that starts from a checkpoint "
            "takes its model over",
        )
    return shape.replaced(**{"vocab_size": None, **{name: values[name] for name in free & values.keys()}})


def continue_run(config: RunConfig, newest: Checkpoint) -> tuple[RunConfig, Resume]:
    """Return the config with the `init_from` of the run's first start, and the start from its newest checkpoint.

    Raises ConfigError if the config names another `init_from`.
    """
    uri = config.runtime.checkpoint.init_from
    assert newest.config is not None, "a checkpoint of a run has one"
    saved = newest.config.runtime.checkpoint.init_from
    assert newest.manifest is not None, "a checkpoint of a run has one"
    inputs = newest.manifest.inputs
    if saved != uri and not (uri and saved and (_is_pinned(uri, saved) or _is_parent(uri, inputs.get("parent")))):
        raise ConfigError(
            f"the run of {newest.folder} has runtime.checkpoint.init_from={saved}, it goes on with {uri}",
            "set it to what the run began with, or resume without --config",
        )
    if saved != uri:
        config = config.replaced(runtime={"checkpoint": {"init_from": saved}})
    run = newest.run or new_run_id()  # one of format version 1 has none
    return config, Resume(newest, inputs.get("parent"), str(inputs.get("tokenizer")), run)


def _is_parent(uri: str, parent: object) -> bool:
    """Return whether a path is that of the checkpoint with the id `parent`, which may have moved."""
    if uri.startswith(SCHEME):
        return False
    try:
        return read_manifest(find_checkpoints(Path(uri))[0]).id == parent
    except (ArtifactError, CheckpointError):
        return False


def _is_pinned(uri: str, saved: str) -> bool:
    """Return whether `saved` is the address `uri` with the commit that its branch had when the run began."""
    if not (uri.startswith(SCHEME) and saved.startswith(SCHEME)):
        return False
    new, old = parse_uri(uri), parse_uri(saved)
    return (new.kind, new.name, new.path) == (old.kind, old.name, old.path) and old.is_pinned and not new.is_pinned


def result_settings(config: RunConfig) -> dict[str, dict[str, object]]:
    """Return the settings that change the result, by section: not names of text, not log intervals.

    What was made of the text, and the tokenizer with it, is compared by the ids of the datasets.
    """
    names = {"train_shards", "validation_shards", "validation_sets", "prepared", "prepared_from"}
    data = dict.fromkeys({"cache_dir", "num_workers", *names}, True)
    runtime = {"logging", "log_every_n_steps"}
    excluded = {"data": {**data, "mixture": {"__all__": {"shards"}}}, "runtime": runtime, "tokenizer": True}
    return config.model_dump(mode="json", exclude=excluded)
