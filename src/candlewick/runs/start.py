"""What a run starts from: random weights, another checkpoint, or its own newest one; nothing may contradict it.

Of a checkpoint it has the tokenizer and the model, but for what needs no weights: dropout, context and angles of
the positions, windows, more vocabulary rows. A run that goes on takes them from its own newest checkpoint.
"""

from collections.abc import Sequence
from pathlib import Path

from candlewick.checkpoint.open import Checkpoint
from candlewick.config import ModelConfig, RunConfig
from candlewick.errors import CheckpointError, ConfigError
from candlewick.hub import SCHEME, fetch_model, open_repo, parse_uri
from candlewick.runs.sources import dataset_tokenizer, open_tokenizer
from candlewick.tokenizer.bpe import Tokenizer
from candlewick.train.plan import Fresh, InitFrom, Resume, Start

MODEL_FILES = (
    *("config.json", "generation_config.json", "*.safetensors", "*.safetensors.index.json", "tokenizer.json"),
    *("tokenizer_config.json", "special_tokens_map.json", "vocab.json", "merges.txt", "chat_template.jinja"),
)
"""What is fetched of a model on the Hub; nothing in it is code."""
_FREE = {
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


def resolve_start(config: RunConfig, newest: Checkpoint | None) -> tuple[RunConfig, Start, Tokenizer | None]:
    """Return the config with the model and tokenizer of what a run starts from, that, and the tokenizer if known.

    `newest` is the checkpoint of a run that goes on. Raises ConfigError for settings that contradict it.
    """
    if newest is not None:
        return _resume(config, newest)
    if (uri := config.runtime.checkpoint.init_from) is None:
        return config, Fresh(), None
    pinned, folder = find_model(uri)
    checkpoint = Checkpoint.open(folder, need={"weights"})
    config = config.replaced(runtime={"checkpoint": {"init_from": pinned}})
    config, tokenizer = inherit(config, checkpoint, dataset_tokenizer(config.data))
    return config, InitFrom(checkpoint, checkpoint.id), tokenizer


def _resume(config: RunConfig, newest: Checkpoint) -> tuple[RunConfig, Resume, Tokenizer | None]:
    uri = config.runtime.checkpoint.init_from
    saved = newest.state["config"].get("runtime", {}).get("checkpoint", {}).get("init_from")
    if uri is not None and saved is not None and _is_pinned(uri, saved):
        uri = saved
    if saved != uri:
        raise ConfigError(
            f"the run of {newest.folder} has runtime.checkpoint.init_from={saved}, it goes on with {uri}",
            "set it to what the run began with, or resume without --config",
        )
    tokenizer = None
    if uri is not None:
        config = config.replaced(runtime={"checkpoint": {"init_from": uri}})
        config, tokenizer = inherit(config, newest, dataset_tokenizer(config.data))
    assert newest.manifest is not None, "a checkpoint of a run has one"
    return config, Resume(newest, newest.manifest.inputs.get("parent")), tokenizer


def _is_pinned(uri: str, saved: str) -> bool:
    """Whether `saved` is the address `uri` with the commit that its branch had when the run began."""
    if not (uri.startswith(SCHEME) and saved.startswith(SCHEME)):
        return False
    ours, theirs = parse_uri(uri), parse_uri(saved)
    is_same = (ours.kind, ours.name, ours.path) == (theirs.kind, theirs.name, theirs.path)
    return is_same and theirs.is_pinned and not ours.is_pinned


def inherit(config: RunConfig, checkpoint: Checkpoint, prepared: Path | None) -> tuple[RunConfig, Tokenizer]:
    """Return the config with the model and the tokenizer of a checkpoint, and that tokenizer.

    Raises ConfigError for a setting of the model, a tokenizer or a token dataset that says otherwise.
    """
    folder, base, saved = checkpoint.folder, checkpoint.tokenizer, checkpoint.config
    shape, rows = checkpoint.shape
    model = _combine(config.model, shape if saved is None else saved.model, folder)
    path = config.tokenizer.tokenizer_json or prepared
    loaded = open_tokenizer(config.tokenizer) or (base if prepared is None else Tokenizer.load(prepared))
    if loaded.sha256 != base.sha256 and loaded.sha256 != base.with_chat_tokens().sha256:
        raise ConfigError(
            f"{path or config.tokenizer.vocab} has sha256 {loaded.sha256[:12]}, the tokenizer of {folder} has "
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
    try:
        model = model.replaced(vocab_size=wanted)
        started = config.replaced(model=model, tokenizer={"tokenizer_json": path or folder})
    except ConfigError as error:
        raise ConfigError(f"the settings do not fit the model of {folder}: {error.problem}", error.fix) from None
    if (length := started.sequence_length) > (longest := started.model.max_position_embeddings):
        raise ConfigError(
            f"data.sequence_length={length} exceeds the context of {folder}, {longest} tokens",
            "lower it, or raise model.max_position_embeddings, best with model.rope_scaling",
        )
    return started, loaded


def _combine(written: ModelConfig, shape: ModelConfig, folder: Path) -> ModelConfig:
    """Lay what the user wrote over the checkpoint's shape where that is free. Raises ConfigError elsewhere."""
    settings = {n: getattr(written, n) for n in ModelConfig.model_fields if n in written.model_fields_set}
    free = _FREE | ({"rope_mode"} if {written.rope_mode, shape.rope_mode} <= _SAME_ANGLES else set())
    different = [name for name in settings if name not in free and settings[name] != getattr(shape, name)]
    if different:
        values = (f"model.{n}={settings[n]} (the checkpoint has {getattr(shape, n)})" for n in different)
        raise ConfigError(
            f"the settings contradict the model of {folder}: {', '.join(values)}",
            f"leave out {', '.join(f'model.{name}' for name in different)}: a run that starts from a checkpoint "
            "takes its model over",
        )
    return shape.replaced(**{"vocab_size": None, **{name: settings[name] for name in free & settings.keys()}})


def require_same_model(config: RunConfig, checkpoint: Checkpoint) -> None:
    """Raise CheckpointError if a run goes on with other settings of the model, by name of what differs."""
    saved = checkpoint.state["config"].get("model", {})
    different = [
        f"model.{key} (was {saved.get(key)!r}, is {value!r})"
        for key, value in config.model.model_dump(mode="json").items()
        if value != saved.get(key)
    ]
    if different:
        raise CheckpointError(
            f"{checkpoint.folder} was written with other settings: {', '.join(different)}",
            "put them back, or start a new --run-dir",
        )
