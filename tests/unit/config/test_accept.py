import pytest

from candlewick.config import RunConfig
from candlewick.config.accept import accept
from candlewick.config.keys import find_nearest, format_key, key_types
from candlewick.config.load import load_config
from candlewick.errors import ConfigError


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("data.train_shards=stdlib://", "train_shards", ("stdlib://",)),
        ("data.include=*.md", "include", ("*.md",)),
        ("data.mixture=[{shards: 'stdlib://', weight: 1}]", "mixture", ((("stdlib://",), 1),)),
        ("data.mixture=[{shards: [a], weight: 0.7}, {shards: [b], weight: 0.3}]", "mixture", 7),
        ("data.micro_batch_size=1e1", "micro_batch_size", 10),
    ],
)
def test_values_in_another_form_are_read(override, key, value):
    found = getattr(load_config(None, [override]).data, key)
    if key == "mixture":
        found = found[0].weight if isinstance(value, int) else tuple((s.shards, s.weight) for s in found)
    assert found == value


def test_numbers_that_are_not_whole_are_refused():
    with pytest.raises(ConfigError, match=r"total_steps: should be a whole number \(got 10.5\)"):
        load_config(None, ["scheduler.total_steps=10.5"])
    assert load_config(None, ["scheduler.total_steps=1e4"]).scheduler.total_steps == 10_000


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        ([0.7, 0.3], [7, 3]),
        ([0.5, 1], [1, 2]),
        ([0.25, 0.25, 0.5], [1, 1, 2]),
        ([2, 4], [2, 4]),
        ([1e-3, 1.0], [1, 1000]),
    ],
)
def test_weights_keep_their_ratios(weights, expected):
    mixture = [{"shards": ["a"], "weight": weight} for weight in weights]
    found = accept({"data": {"mixture": mixture}})["data"]["mixture"]
    assert [source["weight"] for source in found] == expected


@pytest.mark.parametrize("weight", [0.0, -0.5, "x", None, True, 1e-9])
def test_weights_that_cannot_be_shares_stay_and_are_refused(weight):
    mixture = [{"shards": ["a"], "weight": weight}, {"shards": ["b"], "weight": 0.5}]
    assert accept({"data": {"mixture": mixture}}) == {"data": {"mixture": mixture}}


def test_trees_of_other_shapes_are_left_for_the_validation():
    for tree in ({"data": 3}, {"data": {"mixture": "a"}}, {"data": {"mixture": [3]}}, {"unknown": [1.0]}, {}):
        assert accept(tree) == ({"data": {"mixture": "a"}} if tree == {"data": {"mixture": "a"}} else tree)


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("optimizer.lr", "optimizer.learning_rate"),
        ("model.n_layer", "model.num_layers"),
        ("data.block_size", "model.max_position_embeddings"),
        ("n_embd", "model.hidden_size"),
        ("scheduler.max_steps", "scheduler.total_steps"),
        ("per_device_train_batch_size", "data.micro_batch_size"),
    ],
)
def test_names_of_other_programs_are_hints(typed, meant):
    assert [format_key(name) for name in find_nearest(tuple(typed.split(".")))] == [meant]
    with pytest.raises(ConfigError, match=f"did you mean {meant}"):
        load_config(None, [f"{typed}=3"])


def test_names_of_other_programs_stand_for_keys_that_exist():
    from candlewick.config.keys import _OTHER_NAMES

    assert not [name for name in _OTHER_NAMES.values() if name not in key_types()]
    assert RunConfig().data.mixture == ()


def test_device_of_another_name_is_a_hint():
    with pytest.raises(ConfigError, match="did you mean cuda"):
        load_config(None, ["runtime.device=gpu"])


def test_settings_that_an_override_drops_are_told(tmp_path):
    (tmp_path / "c.yaml").write_text(
        "optimizer: {learning_rate: 0.005}\ndata: {micro_batch_size: 3, packing: bfd}\n"
    )
    told: list[str] = []
    config = load_config(str(tmp_path / "c.yaml"), ["data={micro_batch_size: 4}"], told.append)
    assert (config.data.micro_batch_size, config.data.packing) == (4, "chunk")
    assert told == ["--override data drops what was set before: data.packing"]
    told.clear()
    load_config(str(tmp_path / "c.yaml"), ["optimizer.algorithm=adam"], told.append)
    assert told == ["--override optimizer.algorithm drops what was set before: optimizer.learning_rate"]
    told.clear()
    load_config(str(tmp_path / "c.yaml"), ["data.micro_batch_size=4", "scheduler.total_steps=3"], told.append)
    assert not told
