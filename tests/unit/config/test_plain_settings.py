"""Plain settings become overrides, and what depends on them follows."""

import pytest

from candlewick.config import RunConfig, SchedulerConfig
from candlewick.config.keys import look_up
from candlewick.config.load import load_config
from candlewick.config.plain_settings import PLAIN, plain_overrides
from candlewick.errors import ConfigError


def load(given, profile="demo", overrides=()):
    plain = plain_overrides(given, load_config(profile), overrides)
    return load_config(profile, [*plain, *overrides])


@pytest.mark.parametrize(("name", "key"), PLAIN.items())
def test_each_name_sets_its_key(name, key):
    value = 384 if name in ("hidden", "context", "vocab_size", "batch") else 3
    tree = load({name: value}).model_dump(mode="json")
    assert look_up(tree, tuple(key.split("."))) == value


@pytest.mark.parametrize("unit", ["steps", "seconds", "epochs", "tokens"])
@pytest.mark.parametrize("profile", ["demo", "local"])
def test_an_end_replaces_the_end_of_the_profile(unit, profile):
    scheduler = load({unit: 9}, profile).scheduler
    units = [name.removeprefix("total_") for name in SchedulerConfig.model_fields if name.startswith("total_")]
    assert {u: v for u in units if (v := getattr(scheduler, f"total_{u}")) is not None} == {unit: 9}


def test_two_ends_are_refused_and_none_is_no_end():
    with pytest.raises(ConfigError, match="steps and seconds are 2 ends"):
        load({"steps": 9, "seconds": 9})
    with pytest.raises(ConfigError, match=r"steps and scheduler\.total_tokens are 2 ends"):
        load({"steps": 9}, overrides=["scheduler.total_tokens=9"])
    with pytest.raises(ConfigError, match=r"lr and optimizer\.learning_rate set the same"):
        load({"lr": 1}, overrides=["optimizer.learning_rate=9"])
    assert load({"steps": 9, "seconds": None}).scheduler.total_steps == 9


def test_an_unknown_name_is_refused_with_the_nearest():
    with pytest.raises(ConfigError, match="did you mean steps"):
        load({"step": 9})


@pytest.mark.parametrize(
    ("hidden", "heads", "width"),
    [(64, 1, 64), (256, 4, 64), (320, 5, 64), (100, 2, 50), (36, 2, 18)],
)
def test_heads_follow_the_width(hidden, heads, width):
    model = load({"hidden": hidden}).model
    assert (model.num_attention_heads, model.num_key_value_heads, model.head_dim) == (heads, heads, width)


def test_groups_of_heads_and_a_given_mlp_keep_their_proportion():
    overrides = ["model.num_attention_heads=4", "model.num_key_value_heads=2", "model.head_dim=32"]
    base = load_config("local", overrides)
    model = load_config("local", [*overrides, *plain_overrides({"hidden": 256}, base)]).model
    assert (model.num_attention_heads, model.num_key_value_heads, model.head_dim) == (8, 4, 32)
    assert model.intermediate_size == 1024  # 512 of 128 before


def test_a_width_without_heads_is_refused_unless_heads_are_given():
    with pytest.raises(ConfigError, match=r"hidden=130 .*give 128 or 192"):
        load({"hidden": 130})
    overrides = ["model.num_attention_heads=1", "model.head_dim=130"]
    assert load({"hidden": 130}, overrides=overrides).model.head_dim == 130


@pytest.mark.parametrize(("batch", "micro"), [(64, 8), (4, 4), (12, 6), (7, 7), (11, 1)])
def test_rows_of_a_pass_divide_the_batch(batch, micro):
    data = load({"batch": batch}).data
    assert (data.global_batch_size, data.micro_batch_size) == (batch, micro)


def test_the_rows_are_as_long_as_the_context():
    assert load({"context": 64}, overrides=[]).sequence_length == 64
    base = RunConfig().replaced(data={"sequence_length": 100})
    assert "data.sequence_length=null" in plain_overrides({"context": 64}, base)


def test_whole_numbers_may_be_written_as_floats_and_others_are_checked_as_every_setting():
    assert load({"tokens": 1e6}).scheduler.total_tokens == 1_000_000
    for value in (-1, 1.5, True, "many"):
        with pytest.raises(ConfigError, match="total_steps"):
            load({"steps": value})
