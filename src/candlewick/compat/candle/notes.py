"""What a user of transformer_candle is told about sizes and rates that mean something else here."""

from pathlib import Path

from candlewick.config import ModelConfig, MuonConfig, OptimizerConfig, RunConfig
from candlewick.config.load import load_config
from candlewick.config.profiles import profiles
from candlewick.model.flops import model_size


def describe_sizes(file: Path, config: RunConfig) -> list[str]:
    """Return notes about the size of the model of a file: of its MLP, and of the shipped profile of its name."""
    notes: list[str] = []
    if config.model.mlp == "swiglu" and "mlp" not in config.model.model_fields_set:
        notes.append(_describe_width(config.model))
    if file.stem in profiles():
        profile = load_config(file.stem)
        rows = config.model.vocab_size or profile.model.vocab_size or profile.tokenizer.vocab_size
        file_size, profile_size = (
            f"{model_size(c.model, c.model.vocab_size or rows).total:,} parameters, {c.optimizer.algorithm}"
            for c in (config, profile)
        )
        if file_size != profile_size:
            notes.append(
                f"{file} is another model than the shipped profile of its name: the file has {file_size}; "
                f"`--config {file.stem}` has {profile_size} (with {rows:,} tokens)"
            )
    return notes


def _describe_width(model: ModelConfig) -> str:
    """Describe the size of a model whose MLP width was chosen for the block without a gate."""
    width = max(64, model.intermediate_size * 2 // 3 // 64 * 64)
    table = f" and {model.vocab_size * model.hidden_size:,} in the embedding" if model.vocab_size else ""
    sizes = (model_size(m, vocab_size=0).total for m in (model, model.replaced(intermediate_size=width)))
    now, then = (size - model.hidden_size for size in sizes)  # without the last norm
    return (
        f"model.intermediate_size={model.intermediate_size} is kept: with the gated block the layers have "
        f"{now:,} parameters{table}; intermediate_size: {width} gives {then:,}, about the size that was meant, "
        "and mlp: silu is transformer_candle's block"
    )


def describe_rate(optimizer: OptimizerConfig) -> list[str]:
    """Return a note about a learning rate that is far below Muon's usual one, as those of AdamW are."""
    rate, usual = optimizer.learning_rate, MuonConfig().learning_rate
    if not isinstance(optimizer, MuonConfig) or rate > usual / 10:
        return []
    return [
        f"optimizer.learning_rate={rate:g} is the rate of Muon, 1/{usual / rate:.0f} of its default {usual:g}; "
        f"the other parameters have AdamW and optimizer.adam_learning_rate={optimizer.adam_learning_rate:g}; "
        "optimizer.algorithm=adam_w trains all with AdamW"
    ]
