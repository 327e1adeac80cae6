"""The table of resuming: every setting has a rule, and each change is treated as its rule says."""

import logging
from pathlib import Path
from typing import Any

import pytest

from candlewick.config import RunConfig
from candlewick.config.load import load_config
from candlewick.config.schema import sections
from candlewick.config.tree import flatten
from candlewick.errors import ConfigError
from candlewick.train.resume import RULES, apply_table, changes, rule_of

BASE = [
    "data.train_shards=[a]",
    "data.global_batch_size=8",
    "scheduler.total_steps=100",
    "optimizer.algorithm=adam_w",
]
MUST, FREE, WARNED, BEST, CONTENT = "must match", "free", "warned of", "restarts best", "by content"
CHANGES: dict[str, tuple[Any, str]] = {
    "model.hidden_size": (512, MUST),
    "model.num_layers": (3, MUST),
    "model.num_attention_heads": (8, MUST),
    "model.num_key_value_heads": (1, MUST),
    "model.mlp": ("silu", MUST),
    "model.intermediate_size": (64, MUST),
    "tokenizer.special_tokens": ("/names.txt", CONTENT),
    "model.max_position_embeddings": (4096, MUST),
    "model.rope_theta": (5e5, MUST),
    "model.rope_scaling": ("{rope_type: linear, factor: 2.0}", MUST),
    "model.sliding_window": (16, MUST),
    "model.rms_norm_eps": (1e-3, MUST),
    "model.qk_norm": ("false", MUST),
    "model.tie_word_embeddings": ("false", MUST),
    "model.attn_dropout": (0.1, WARNED),
    "model.residual_dropout": (0.1, WARNED),
    "tokenizer.vocab_size": (999, MUST),
    "tokenizer.min_frequency": (9, MUST),
    "data.train_shards": ("[b]", CONTENT),
    "data.validation_shards": ("[b]", CONTENT),
    "data.format": ("chat", MUST),
    "data.documents": ("line", MUST),
    "data.text_field": ("body", MUST),
    "data.bad_utf8": ("error", MUST),
    "data.deduplicate": ("true", MUST),
    "data.validation_fraction": (0.2, MUST),
    "data.max_tokens": (1000, CONTENT),
    "data.sequence_length": (64, MUST),
    "data.packing": ("chunk", MUST),
    "data.order": ("window", MUST),
    "data.document_mask": ("false", BEST),
    "data.num_workers": (3, FREE),
    "data.cache_dir": ("/elsewhere", FREE),
    "data.max_repetitions": (9.0, FREE),
    "data.micro_batch_size": (2, WARNED),
    "data.global_batch_size": (16, WARNED),
    "data.batch_ramp": ("[{steps: 3, global_batch_size: 4}]", WARNED),
    "objective.label_smoothing": (0.5, WARNED),
    "optimizer.learning_rate": (0.5, WARNED),
    "optimizer.weight_decay": (0.5, WARNED),
    "optimizer.weight_decay_exclude": ("['*embed*']", WARNED),
    "optimizer.beta1": (0.5, WARNED),
    "optimizer.max_grad_norm": (0.5, WARNED),
    "optimizer.ema_decay": (0.9, MUST),
    "optimizer.algorithm": ("adam", MUST),
    "scheduler.strategy": ("cosine", WARNED),
    "scheduler.warmup_steps": (7, WARNED),
    "scheduler.decay_fraction": (0.1, WARNED),
    "scheduler.min_lr": (1e-6, WARNED),
    "scheduler.total_steps": (200, FREE),
    "scheduler.total_tokens": (200_000, FREE),
    "runtime.seed": (7, MUST),
    "runtime.device": ("cpu", FREE),
    "runtime.precision": ("bf16", WARNED),
    "runtime.tf32": ("true", WARNED),
    "runtime.recompute": ("block", FREE),
    "runtime.log_every_n_steps": (3, FREE),
    "runtime.max_nonfinite_steps": (3, FREE),
    "runtime.checkpoint.every_n_steps": (3, FREE),
    "runtime.checkpoint.max_keep": (9, FREE),
    "runtime.checkpoint.init_from": ("/parent", MUST),
    "runtime.evaluation.every_n_steps": (3, FREE),
    "runtime.evaluation.max_tokens": (3, BEST),
    "runtime.evaluation.best.max_keep": (3, FREE),
    "runtime.sample.temperature": (0.5, FREE),
    "runtime.logging.tensorboard": ("true", FREE),
}

NEEDS = {
    "runtime.evaluation.best.max_keep": ("runtime.evaluation.best={}",),
    "tokenizer.special_tokens": ("tokenizer.tokenizer_json=/t.json",),
    "model.mlp": ("model.qk_norm=false",),
    "scheduler.strategy": ("scheduler.strategy=constant", "scheduler.decay_fraction=0.4"),
}


def config(*overrides: str) -> RunConfig:
    return load_config("demo", [*BASE, *overrides], lambda _: None)


@pytest.mark.parametrize("key", CHANGES)
def test_changed_setting_is_treated_as_the_table_says(key, caplog):
    value, effect = CHANGES[key]
    first = NEEDS.get(key, ())  # settings that this value goes with
    saved, now = config(*first), config(*first, f"{key}={value}")
    changed = [change for change in changes(saved, now) if change.key.startswith(key)]
    assert changed, "the value is that of before"
    assert {change.rule.effect for change in changed} == {effect}
    with caplog.at_level(logging.INFO):
        if effect == MUST:
            with pytest.raises(ConfigError, match=rf"written with other settings: .*{key}.*\(was .*, is .*\)"):
                apply_table(saved, now, Path("step_5"))
            return
        apply_table(saved, now, Path("step_5"))
    records = [record for record in caplog.records if key in record.getMessage()]
    levels = {FREE: {"INFO"}, WARNED: {"WARNING"}, BEST: {"WARNING"}, CONTENT: set()}
    assert {record.levelname for record in records} == levels[effect]


def test_every_setting_has_a_rule_and_every_rule_a_setting():
    settings = {f"{group.name}.{key}" for group in sections() if group.name for key in group.settings}
    for key in settings | set(flatten(RunConfig())):
        assert rule_of(key.replace("[]", "[0]")).reason
    names = settings | {group.name for group in sections()}
    assert set(RULES) <= names, "the table names a setting that does not exist"


def test_equal_settings_change_nothing(caplog):
    with caplog.at_level(logging.INFO):
        apply_table(config(), config(), Path("step_5"))
    assert not caplog.records


def test_all_settings_that_must_match_are_named_at_once_and_cut_to_a_line():
    with pytest.raises(ConfigError, match=r"runtime\.seed \(was 42, is 7\)") as caught:
        apply_table(config(), config("runtime.seed=7", "data.text_field=" + "x" * 999), Path("step_5"))
    assert "data.text_field (was text, is " + "x" * 200 + ")" in str(caught.value)
