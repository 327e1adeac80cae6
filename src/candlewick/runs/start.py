"""A new run that starts from the weights of another checkpoint, and takes its model over.

Settings may differ from that model only in what needs no other weights: dropout, context and angles of the
positions, windows, more vocabulary rows.
"""

from collections.abc import Sequence
from pathlib import Path

from candlewick.checkpoint.open import Checkpoint
from candlewick.config import ModelConfig, RunConfig
from candlewick.errors import ConfigError
from candlewick.hub import SCHEME, fetch_model, open_repo
from candlewick.runs.sources import dataset_tokenizer, encoding_tokenizer
from candlewick.tokenizer.bpe import Tokenizer
from candlewick.train.plan import InitFrom

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
