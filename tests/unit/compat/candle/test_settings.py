"""Translating the settings of transformer_candle: names, defaults, batch sizes, refused values."""

import json
from pathlib import Path

import pytest

from candlewick.compat.candle.settings import CandleDialect, find_streaming_config
from candlewick.config import EvaluationConfig, RunConfig
from candlewick.config.load import load_config
from candlewick.config.tree import flatten
from candlewick.errors import ConfigError


def settle(data):
    def report(key, what):
        raise AssertionError((key, what))

    return CandleDialect().translate_merged({"data": data}, {"data": data}, report)["data"]


@pytest.mark.parametrize(
    ("batch", "passes", "rows", "micro"),
    [(8, 1, 8, 8), (64, 16, 64, 4), (48, 48, 48, 1), (2, 32, 64, 2), (1, 256, 256, 1), (10, 4, 40, 10)],
)
def test_batch_size_is_global_if_accumulation_steps_divide_it(batch, passes, rows, micro, load, notes):
    data = load(f"data: {{batch_size: {batch}, gradient_accumulation_steps: {passes}}}").data
    assert (data.global_batch_size, data.micro_batch_size) == (rows, micro)
    how = "per update" if batch % passes == 0 else f"per pass, which {passes} do not divide"
    assert any(
        f"is read as rows {how}: global_batch_size={rows}, micro_batch_size={micro}" in note for note in notes
    )


def test_batch_keys_of_candlewick_are_kept():
    assert settle({"batch_size": 64, "gradient_accumulation_steps": 16, "micro_batch_size": 8}) == {
        "micro_batch_size": 8,
        "global_batch_size": 64,
    }
    assert settle({"batch_size": 64, "global_batch_tokens": 4096}) == {
        "micro_batch_size": 64,
        "global_batch_tokens": 4096,
    }
    assert settle({"gradient_accumulation_steps": 4}) == {"micro_batch_size": 2, "global_batch_size": 8}
    assert settle({"micro_batch_size": 3}) == {"micro_batch_size": 3}


@pytest.mark.parametrize("size", [0, -1, "8", 1.5, True])
def test_batch_size_that_is_no_positive_integer_is_refused(size, load):
    with pytest.raises(ConfigError, match=r"data\.batch_size: should be a whole number, at least 1"):
        load(f"data: {{batch_size: {'text' if size == '8' else str(size).lower()}}}")


def test_absent_keys_get_the_defaults_of_transformer_candle(load, notes):
    config = load("data: {batch_size: 4}\nmodel: {hidden_size: 64, num_attention_heads: 2}\n")
    optimizer = config.optimizer
    assert (optimizer.algorithm, optimizer.decay, optimizer.max_grad_norm) == ("adam_w", "all", None)
    assert (optimizer.weight_decay, optimizer.beta1, optimizer.beta2, optimizer.epsilon) == (0.0, 0.9, 0.95, 1e-8)
    assert (config.model.num_layers, config.model.intermediate_size) == (32, 256)
    assert (config.scheduler.strategy, config.scheduler.warmup_steps) == ("constant", 0)
    assert config.data.documents == "line"
    assert (config.runtime.evaluation.every_n_steps, config.runtime.evaluation.best) == (None, None)
    assert (config.runtime.checkpoint.max_keep, config.runtime.log_every_n_steps) == (None, 100)
    assert "is read as a configuration of transformer_candle" in notes[0]


def test_override_of_a_candle_key_keeps_the_defaults_of_candlewick(notes):
    config = load_config(
        "local", ["data.batch_size=8", "data.gradient_accumulation_steps=2"], notes.append, CandleDialect()
    )
    assert config.optimizer.decay == "matrices"
    assert (config.data.global_batch_size, config.data.micro_batch_size) == (8, 4)
    assert len(notes) == 1


@pytest.mark.parametrize(
    ("overrides", "rows", "micro"),
    [
        (["data.batch_size=4"], 4, 4),
        (["data.batch_size=4", "data.gradient_accumulation_steps=2"], 4, 2),
        (["data.gradient_accumulation_steps=4"], 16, 4),
        (["data.batch_size=4", "data.global_batch_size=8"], 8, 4),
        (["data.global_batch_tokens=9999", "data.batch_size=6"], 6, 6),
    ],
)
def test_overridden_batch_size_replaces_the_batch_of_a_profile(overrides, rows, micro, notes):
    data = load_config("orchestrate", overrides, notes.append, CandleDialect()).data  # 16 rows in one pass
    assert (data.global_batch_size, data.micro_batch_size) == (rows, micro)
    assert f"global_batch_size={rows}, micro_batch_size={micro}" in notes[-1]


def test_file_with_extends_gets_the_defaults_of_candlewick(tmp_path, notes):
    (tmp_path / "own.yaml").write_text("extends: m3_medium\ndata: {batch_size: 4}\n")
    config = load_config(tmp_path / "own.yaml", (), notes.append, CandleDialect())
    assert (config.model.hidden_size, config.optimizer.algorithm) == (384, "muon")
    assert (config.data.global_batch_size, config.data.micro_batch_size) == (4, 4)


@pytest.mark.parametrize(
    ("text", "overrides", "tokens"),
    [
        ("data: {batch_size: 4, gradient_accumulation_steps: 2}", [], 3 * 4 * 64),
        ("data: {batch_size: 6, gradient_accumulation_steps: 2, sequence_length: 8}", [], 3 * 6 * 8),
        ("data: {global_batch_size: 4, micro_batch_size: 2}", [], 3 * 2 * 64),
        ("data: {micro_batch_size: 2}", [], 3 * 2 * 64),
        ("data: {global_batch_tokens: 640, micro_batch_size: 2}", [], 3 * 2 * 64),
        ("data: {batch_size: 4}", ["runtime.evaluation.max_tokens=7"], 7),
        ("data: {batch_size: 4}", ["data.batch_size=8"], 3 * 8 * 64),
        ("data: {batch_size: 4}", ["runtime.evaluation.max_tokens=7", "runtime.evaluation.max_batches=2"], 512),
        ("data: {batch_size: 4}", ["runtime.evaluation.max_batches=null"], None),
        ("data: {batch_size: 4}", ["runtime.evaluation.max_tokens=null"], None),
    ],
)
def test_max_batches_counts_validation_batches_of_batch_size_rows(load, notes, text, overrides, tokens):
    model = "model: {hidden_size: 64, num_attention_heads: 2, max_position_embeddings: 64}"
    config = load(f"{text}\n{model}\nruntime: {{evaluation: {{max_batches: 3}}}}\n", *overrides)
    assert config.runtime.evaluation.max_tokens == tokens
    is_translated = not (overrides and "max_tokens" in overrides[-1])
    assert any(f"read as max_tokens={tokens}" in note for note in notes) == is_translated


@pytest.mark.parametrize("value", [0, -1, "many", 1.5, True])
def test_max_batches_that_is_no_positive_integer_is_refused(load, value):
    with pytest.raises(ConfigError, match=r"runtime\.evaluation\.max_batches: should be a whole number"):
        load(f"runtime: {{evaluation: {{max_batches: {json.dumps(value)}}}}}")


def test_evaluation_of_candle_without_max_batches_reads_all(load):
    assert load("data: {batch_size: 4}\nruntime: {evaluation: {every_n_steps: 5}}\n").runtime.evaluation == (
        EvaluationConfig(every_n_steps=5, max_tokens=None, best=None)
    )


def test_null_values_count_as_absent_keys(load):
    text = """
model: {hidden_size: 64, num_attention_heads: 2, num_key_value_heads: null, rope_theta: null, rope_mode: null}
data: {batch_size: 4, shuffle_buffer_size: null}
scheduler: {strategy: polynomial, min_lr: null, max_lr: null, total_steps: 5, total_epochs: null}
runtime: {checkpoint: null, evaluation: null, logging: {tensorboard: null}}
"""
    config = load(text + "training: {checkpoint_dir: null}\n")
    assert config.optimizer.learning_rate == 3e-4
    assert (config.model.num_key_value_heads, config.model.rope_theta) == (2, 10_000.0)
    assert config.runtime.evaluation.every_n_steps is None


def test_keys_that_transformer_candle_ignored_are_dropped_with_a_note(load, notes):
    config = load("data: {batch_size: 4}\nscheduler: {min_lr: 1e-5, total_steps: 5, total_epochs: 2}\n")
    assert (config.scheduler.min_lr, config.scheduler.total_steps, config.scheduler.total_epochs) == (0.0, 5, None)
    assert "scheduler.min_lr is left out: a constant rate does not fall" in notes
    assert "scheduler.total_epochs is left out: the run ends by scheduler.total_steps" in notes


@pytest.mark.parametrize(
    ("lines", "overrides", "power", "rate"),
    [
        ("strategy: polynomial, max_lr: 2.0", [], 2.0, 0.1),
        ("strategy: polynomial", ["scheduler.max_lr=2"], 2.0, 0.1),
        ("strategy: cosine", ["scheduler.max_lr=2", "scheduler.strategy=polynomial"], 2.0, 0.1),
        ("strategy: polynomial, max_lr: 2.0", ["scheduler.strategy=cosine"], 1.0, 0.1),
        ("strategy: polynomial, max_lr: 2.0", ["scheduler.max_lr=null"], 1.0, 0.1),
        ("strategy: cosine", ["scheduler.max_lr=0.5"], 1.0, 0.5),
        ("strategy: cosine, max_lr: 0.1", ["optimizer.learning_rate=0.2"], 1.0, 0.2),
        ("strategy: cosine", ['scheduler={"strategy": "polynomial", "max_lr": 3, "min_lr": null}'], 3.0, 0.1),
    ],
)
def test_max_lr_is_the_power_of_polynomial_and_else_the_peak(load, notes, lines, overrides, power, rate):
    text = f"data: {{batch_size: 4}}\noptimizer: {{learning_rate: 0.1}}\nscheduler: {{{lines}}}\n"
    config = load(text, *overrides)
    assert (config.scheduler.power, config.optimizer.learning_rate) == (power, rate)
    native = "scheduler.power" if power != 1 else "optimizer.learning_rate"
    assert any("scheduler.max_lr=" in n and native in n for n in notes) == (power != 1 or rate == 0.5)


FILE = """
model: {hidden_size: 64, intermediate_size: 96, num_attention_heads: 4, num_key_value_heads: 2, rope_mode: pre}
data: {batch_size: 4, gradient_accumulation_steps: 2}
optimizer: {learning_rate: 0.01, weight_decay: 0.3, beta1: 0.8}
scheduler: {strategy: cosine, warmup_steps: 7, min_lr: 1e-4, total_steps: 9}
runtime: {evaluation: {every_n_steps: 3}, checkpoint: {every_n_steps: 4}}
"""


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("model.intermediate_size=null", {"model.intermediate_size": 256}),
        ("model.num_key_value_heads=null", {"model.num_key_value_heads": 4}),
        ("model.rope_mode=null", {"model.rope_mode": "preapply"}),
        ("model.hidden_size=128", {"model.intermediate_size": 96}),
        ("data.batch_size=null", {"data.global_batch_size": 8, "data.micro_batch_size": 4}),
        ("optimizer.beta1=null", {"optimizer.beta1": 0.9, "optimizer.weight_decay": 0.3}),
        ("optimizer.algorithm=adam", {"optimizer.learning_rate": 0.01, "optimizer.max_grad_norm": None}),
        ("optimizer.algorithm=sgd", {"optimizer.learning_rate": 0.01, "optimizer.decay": "all"}),
        (
            'optimizer={"algorithm": "adam", "beta2": null}',
            {"optimizer.learning_rate": 3e-4, "optimizer.beta2": 0.95},
        ),
        ("scheduler.warmup_steps=null", {"scheduler.warmup_steps": 0}),
        ("scheduler.min_lr=null", {"scheduler.min_lr": 0.0}),
        ("scheduler.strategy=constant", {"scheduler.min_lr": 0.0}),
        ("runtime.evaluation=null", {"runtime.evaluation.every_n_steps": None, "runtime.evaluation.best": None}),
        ('runtime.evaluation={"max_batches": null}', {"runtime.evaluation.max_tokens": None}),
        (
            'model={"hidden_size": 64, "num_attention_heads": 2, "rope_mode": "auto"}',
            {"model.intermediate_size": 256},
        ),
    ],
)
def test_override_of_a_candle_file_follows_its_rules(load, override, expected):
    values = flatten(load(FILE, override))
    assert {key: values[key] for key in expected} == expected


def test_override_of_candle_is_noted(load, notes):
    load(FILE, "training.checkpoint_dir=/x", "scheduler.strategy=constant", "scheduler.min_lr=1e-5")
    assert "training.checkpoint_dir=/x is read as runtime.checkpoint.init_from" in notes
    assert "scheduler.min_lr is left out: a constant rate does not fall" in notes


def test_override_of_an_unknown_key_with_null_is_refused(load):
    with pytest.raises(ConfigError, match="unknown key"):
        load(FILE, "scheduler.min_rl=null")


def test_is_candle_reads_any_file_with_the_defaults_of_transformer_candle(tmp_path):
    (tmp_path / "bare.yaml").write_text("optimizer: {learning_rate: 1e-4}\n")
    for dialect, algorithm in ((CandleDialect(), "muon"), (CandleDialect(is_candle=True), "adam_w")):
        assert load_config(tmp_path / "bare.yaml", dialect=dialect).optimizer.algorithm == algorithm


def test_override_values_may_be_capitalized():
    config = load_config("local", ["runtime.logging.enable_stdout=FALSE", "model.vocab_size=Null"])
    assert (config.runtime.logging.enable_stdout, config.model.vocab_size) == (False, None)


def test_override_wins_over_the_same_setting_in_the_file(load):
    text = "data: {batch_size: 8}\nmodel: {hidden_size: 64, num_attention_heads: 2}\n"
    assert load(text, "data.batch_size=16").data.global_batch_size == 16
    assert load(text, "data.micro_batch_size=2").data.micro_batch_size == 2
    assert load(text, "scheduler.max_lr=0.5").optimizer.learning_rate == 0.5
    assert load(text, "model.rope_mode=pre-applied").model.rope_mode == "preapply"
    start = load(text, "training.checkpoint_dir=/x").runtime.checkpoint.init_from
    assert start == "/x"


def test_training_checkpoint_dir_is_read_as_init_from(load, tmp_path):
    config = load("training: {checkpoint_dir: weights}\ndata: {batch_size: 8}\n")
    assert config.runtime.checkpoint.init_from == str(tmp_path / "weights")
    with pytest.raises(ConfigError, match=r"training: unknown key|training\.other"):
        load("training: {checkpoint_dir: weights, other: 1}\n")


def test_different_learning_rate_and_max_lr_are_refused(load):
    with pytest.raises(ConfigError, match=r"is 0\.1, and scheduler\.max_lr is 2: keep one"):
        load("optimizer: {learning_rate: 0.1}\nscheduler: {max_lr: 2}\n")
    assert load("optimizer: {learning_rate: 0.1}\nscheduler: {max_lr: 0.1}\n").optimizer.learning_rate == 0.1


@pytest.mark.parametrize(
    ("word", "mode"),
    [
        *((word, "off") for word in ("off", "disabled")),
        *((word, "preapply") for word in ("preapply", "pre", "Pre-Applied")),
        *((word, "on_the_fly") for word in ("on_the_fly", "onthefly", "online", "auto")),
    ],
)
def test_rope_mode_accepts_the_words_of_transformer_candle(word, mode, load):
    assert load(f"model: {{rope_mode: {word}}}\n").model.rope_mode == mode


@pytest.mark.parametrize("algorithm", ["adam", "sgd", "muon", "lion"])
def test_settings_that_an_optimizer_lacks_are_dropped_with_a_note(algorithm, load, notes):
    betas = "" if algorithm == "lion" else ", beta1: 0.8, epsilon: 1e-7"
    shape = "model: {hidden_size: 64, num_attention_heads: 2}\n"
    config = load(f"data: {{batch_size: 8}}\n{shape}optimizer: {{algorithm: {algorithm}{betas}}}\n")
    assert config.optimizer.algorithm == algorithm
    if algorithm == "muon":
        assert config.optimizer.decay == "matrices"  # transformer_candle had none: our recipe
    else:
        assert config.optimizer.decay == "all"
    told = [note for note in notes if "sgd has no such" in note]
    assert len(told) == (2 if algorithm == "sgd" else 0)


def test_file_of_candlewick_is_left_unchanged():
    tree = {"model": {"hidden_size": 3}, "data": {"micro_batch_size": 2}}
    dialect = CandleDialect()
    assert dialect.translate(tree, "x.yaml", lambda *_: None) == tree
    assert dialect.translate_merged(tree, tree, lambda *_: None) == tree
    assert dialect.notes(RunConfig()) == []


@pytest.mark.parametrize("junk", ["text", 3, [1, 2], True, [["a", "b"]]])
@pytest.mark.parametrize("section", ["model", "data", "optimizer", "scheduler", "runtime", "tokenizer"])
@pytest.mark.parametrize("is_candle", [True, None])
def test_section_that_is_no_mapping_is_refused_in_one_line(tmp_path, section, junk, is_candle):
    tree = {"data": {"batch_size": 2}, "optimizer": {"algorithm": "sgd"}, section: junk}
    (tmp_path / "a.json").write_text(json.dumps(tree))
    with pytest.raises(ConfigError, match=section):
        load_config(tmp_path / "a.json", dialect=CandleDialect(is_candle=is_candle))


WRITTEN = {"dataset": "me/text", "split": "train", "max_samples": 600_000, "stream_batch_size": 512}


@pytest.fixture
def streaming(tmp_path):
    """A configuration with the given content in a streaming_config.json beside it."""

    def write(content) -> Path:
        (tmp_path / "run.yaml").write_text("{}\n")
        text = content if isinstance(content, str) else json.dumps(content)
        (tmp_path / "streaming_config.json").write_text(text)
        return tmp_path / "run.yaml"

    return write


def test_streaming_config_is_read_with_null_as_absent(streaming, tmp_path):
    path = tmp_path / "streaming_config.json"
    assert find_streaming_config(streaming(WRITTEN)) == (path, WRITTEN)
    assert find_streaming_config(streaming({"dataset": "a/b", "split": None})) == (path, {"dataset": "a/b"})


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "is not a JSON object"),
        ("[]", "is not a JSON object"),
        ({}, "should have a dataset"),
        ({"dataset": ""}, "should have a dataset"),
        ({**WRITTEN, "shuffle": 1}, "no keys but dataset, split, max_samples, stream_batch_size"),
    ],
)
def test_malformed_streaming_config_is_refused(streaming, content, said):
    with pytest.raises(ConfigError, match=f"streaming_config.json.*{said}"):
        find_streaming_config(streaming(content))


def test_a_profile_has_no_streaming_config(streaming, tmp_path, monkeypatch):
    streaming(WRITTEN)
    monkeypatch.chdir(tmp_path)
    assert find_streaming_config(Path("demo")) is None
    assert find_streaming_config(Path()) is None
    (tmp_path / "streaming_config.json").unlink()
    assert find_streaming_config(Path("run.yaml")) is None


@pytest.mark.parametrize(
    "override", ["data=5", "runtime.checkpoint=5", "runtime=5", "tokenizer=5", "data.prepared=5"]
)
def test_override_of_a_section_with_a_number_is_refused_by_its_name(override):
    with pytest.raises(ConfigError, match=r"should be a section with keys|is not a section"):
        load_config("demo", [override])


@pytest.mark.parametrize(("text", "tokens"), [("max_batches=null", None), ("max_batches=3", 3 * 4 * 256)])
def test_max_batches_replaces_the_max_tokens_of_a_profile(text, tokens):
    assert load_config("local", [f"runtime.evaluation.{text}"]).runtime.evaluation.max_tokens == tokens
