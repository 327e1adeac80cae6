"""The shipped profiles: their head comments are true, and a small copy of each trains."""

import re

import pytest
import torch

from candlewick.config.load import load_config, profiles, read_profile
from candlewick.model.flops import model_size
from candlewick.model.transformer import Transformer
from candlewick.runs.train import run_training

TARGETS = {  # parameters that transformer_candle promised, or that its misnamed profile had; tokens per update
    "m3_medium": (22.93e6, 6 * 512),
    "runpod_1b": (1.073e9, 131_072),
    "runpod_2b": (1.970e9, 262_144),
    "runpod_4b": (3.723e9, 1_048_576),
    "m3_21m": (20.82e6, 32_768),
    "runpod_21m": (20.82e6, 65_536),
    "runpod_411m": (410.6e6, 48 * 1024),
    "rtx5090_161m": (160.5e6, 65_536),
    "rtx5090_379m": (378.8e6, 8 * 512),
}


def comment(name: str, what: str) -> str:
    """Return what the head comment of a profile says."""
    found = re.search(rf"^# {what}: +(.*)$", read_profile(name), re.MULTILINE)
    assert found is not None, f"{name} has no `# {what}:`"
    return found[1]


@pytest.mark.parametrize("name", profiles())
def test_profile_comment_names_command_hardware_and_parameters(name):
    assert comment(name, "command").startswith("candlewick ")
    assert comment(name, "hardware")
    assert comment(name, "parameters")


@pytest.mark.parametrize("name", TARGETS)
def test_profile_parameter_counts_are_exact_and_near_the_target(name):
    config = load_config(name)
    promised, per_update = TARGETS[name]
    rows = config.model.vocab_size or config.tokenizer.vocab_size
    with torch.device("meta"):
        model = Transformer(config.model, rows)
    count = sum(parameter.numel() for parameter in model.parameters())
    assert count == model_size(config.model, rows).total
    assert abs(count / promised - 1) < 0.01
    assert comment(name, "parameters") == f"{count:,}"
    batch = config.data.global_batch_size or config.data.micro_batch_size
    assert batch * config.sequence_length == per_update
    assert config.scheduler.total_steps is not None
    total = per_update * config.scheduler.total_steps
    assert comment(name, "tokens") == f"{per_update:,} per update, {total:,} in all"
    loss = 1.69 + 406.4 / count**0.34 + 410.7 / total**0.28
    assert comment(name, "loss").startswith(f"about {loss:.2f} nats")
    if name in ("m3_medium", "runpod_1b", "runpod_2b", "runpod_4b"):
        widths = {"m3_medium": 1024, "runpod_1b": 5440, "runpod_2b": 6784, "runpod_4b": 8192}
        assert (rows, config.model.tie_word_embeddings) == (32_000, True)
        assert config.model.intermediate_size == widths[name]
    assert config.optimizer.algorithm == "muon"


@pytest.mark.parametrize("name", profiles())
def test_small_copy_of_a_profile_trains_two_steps(name, tiny, tokens, tmp_path):
    config, small = load_config(name), tiny()
    shape = {
        "hidden_size": 32,
        "num_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": 16,
    }
    batch = {"micro_batch_size": 2, "global_batch_size": 4 if config.data.global_batch_size else None}
    copy = config.replaced(
        model={
            **shape,
            "head_dim": 16,
            "intermediate_size": 48,
            "max_position_embeddings": 32,
            "vocab_size": None,
        },
        data={"train_shards": (str(tokens),), "validation_shards": (), **batch},
        runtime={"device": "cpu", "logging": small.runtime.logging, "sample": None},
        scheduler={"total_steps": 2, "total_epochs": None, "total_seconds": None, "warmup_steps": 1},
        tokenizer={"tokenizer_json": None},
    )
    assert run_training(copy, tmp_path / "run", resume=False)["steps"] == 2


def test_profiles_lists_the_shipped_names():
    assert {"demo", "local", "m3_medium"} <= set(profiles())
