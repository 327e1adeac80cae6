"""A run that goes on from its newest checkpoint, whose settings must not contradict those of the checkpoint."""

from candlewick.checkpoint.open import Checkpoint
from candlewick.config import RunConfig
from candlewick.errors import CheckpointError, ConfigError
from candlewick.hub import SCHEME, parse_uri
from candlewick.train.plan import Resume

_MAX_VALUE_CHARS = 200


def resume_run(config: RunConfig, newest: Checkpoint) -> tuple[RunConfig, Resume]:
    """Return the config with the `init_from` of the run's first start, and the start from its newest checkpoint.

    Raises ConfigError if the config names another `init_from`.
    """
    uri = config.runtime.checkpoint.init_from
    saved = newest.state["config"].get("runtime", {}).get("checkpoint", {}).get("init_from")
    if saved != uri and not (uri and saved and _is_pinned(uri, saved)):
        raise ConfigError(
            f"the run of {newest.folder} has runtime.checkpoint.init_from={saved}, it goes on with {uri}",
            "set it to what the run began with, or resume without --config",
        )
    if saved != uri:
        config = config.replaced(runtime={"checkpoint": {"init_from": saved}})
    assert newest.manifest is not None, "a checkpoint of a run has one"
    inputs = newest.manifest.inputs
    return config, Resume(newest, inputs.get("parent"), str(inputs.get("tokenizer")))


def _is_pinned(uri: str, saved: str) -> bool:
    """Return whether `saved` is the address `uri` with the commit that its branch had when the run began."""
    if not (uri.startswith(SCHEME) and saved.startswith(SCHEME)):
        return False
    new, old = parse_uri(uri), parse_uri(saved)
    return (new.kind, new.name, new.path) == (old.kind, old.name, old.path) and old.is_pinned and not new.is_pinned


def result_settings(config: RunConfig) -> dict[str, dict[str, object]]:
    """Return the settings that change the result, by section: not log intervals, not the number of workers."""
    data, runtime = {"cache_dir", "cache_max_bytes", "num_workers"}, {"logging", "log_every_n_steps"}
    return config.model_dump(mode="json", exclude={"data": data, "runtime": runtime})


def require_same_settings(config: RunConfig, newest: Checkpoint, *, all_sections: bool) -> None:
    """Raise ConfigError that names each setting in which a run differs from its checkpoint, with both values.

    Settings that change no result are free. Without `all_sections` only those of the model must be the same, and
    it is a CheckpointError.
    """
    sections = result_settings(config) if all_sections else {"model": config.model.model_dump(mode="json")}
    saved = newest.state["config"]
    different = [
        f"{section}.{key} (was {str(before)[:_MAX_VALUE_CHARS]}, is {str(value)[:_MAX_VALUE_CHARS]})"
        for section, values in sections.items()
        for key, value in values.items()
        if value != (before := saved.get(section, {}).get(key))
    ]
    if different:
        raise (ConfigError if all_sections else CheckpointError)(
            f"{newest.folder} was written with other settings: {', '.join(different)}",
            "put them back, or choose another --run-dir",
        )
