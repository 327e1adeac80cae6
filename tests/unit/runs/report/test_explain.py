import pytest

from candlewick.config.keys import key_types
from candlewick.config.load import load_with_origins
from candlewick.config.schema import sections
from candlewick.errors import ConfigError
from candlewick.runs.report.explain import _entries, readers
from candlewick.runs.report.explain import explain as explain_in


def explain(word, *overrides):
    return explain_in(word, *load_with_origins("local", overrides))


def test_explain_gives_meaning_type_default_and_readers():
    [entry] = explain("model.hidden_size")
    assert entry["meaning"] == "Width of the residual stream (D)."
    assert (entry["type"], entry["default"], entry["kind"]) == ("integer ≥ 1", "384", None)
    assert any(place.startswith("model/transformer.py:") for place in entry["read_by"])


def test_explain_names_each_variant_with_the_setting():
    entries = explain("optimizer.momentum")
    assert {entry["kind"] for entry in entries} == {"algorithm: muon", "algorithm: sgd"}
    assert {entry["default"] for entry in entries} == {"0.95", "0.9"}


def test_explain_of_a_bare_name_finds_every_section_with_it():
    assert {entry["key"] for entry in explain("max_keep")} == {
        "runtime.checkpoint.max_keep",
        "runtime.evaluation.best.max_keep",
    }


def test_explain_of_a_section_names_its_keys():
    setting, section = explain("runtime.sample")
    assert (setting["type"], setting["default"]) == ("section or null", "on")
    assert "temperature" in section["keys"]


@pytest.mark.parametrize(
    ("word", "key"),
    [
        ("data.mixture[0].weight", "data.mixture[].weight"),
        ("data.validation_sets.web", "data.validation_sets"),
        ("optimizer.learning_rate_scales.head", "optimizer.learning_rate_scales"),
        ("data.batch_ramp", "data.batch_ramp"),
        ("model.rope_scaling", "model.rope_scaling"),
    ],
)
def test_explain_accepts_list_indices_and_free_names(word, key):
    assert key in {entry["key"] for entry in explain(word)}


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("model.hiden_size", "did you mean model.hidden_size"),
        ("beta3", "did you mean optimizer.beta1 or optimizer.beta2"),
        ("xyzzyxyzzy", "see docs/config.md"),
        ("", "see docs/config.md"),
    ],
)
def test_explain_of_an_unknown_key_suggests_near_ones(word, said):
    with pytest.raises(ConfigError) as caught:
        explain(word)
    assert said in str(caught.value)


def test_explain_covers_every_key():
    explained = {
        tuple(entry["key"].replace("[]", "").split(".")) for group in sections() for entry in _entries(group)
    }
    names = {name for name in key_types() if dict not in key_types().get(name[:-1], ())}
    assert names <= explained


def test_readers_of_a_setting_are_attribute_reads_outside_config():
    found = list(readers(("model", "rms_norm_eps")))
    assert found
    assert not any(place.startswith("config") for place in found)
    assert not list(readers(("model", "no_such_attribute_anywhere")))


def test_explain_with_a_config_gives_value_and_source():
    [entry] = explain("runtime.seed")
    assert (entry["value"], entry["source"]) == ("42", "default")
    [entry] = explain("runtime.seed", "runtime.seed=7")
    assert (entry["value"], entry["source"]) == ("7", "--override")
    muon, sgd = explain("optimizer.momentum", "optimizer.algorithm=sgd", "optimizer.momentum=0.5")
    assert (sgd["value"], sgd["source"], sgd["kind"]) == ("0.5", "--override", "algorithm: sgd")
    assert "value" not in muon
    [entry] = explain("extends")
    assert entry["meaning"].startswith("A file or profile")


@pytest.mark.parametrize(
    ("word", "reader", "other"),
    [
        ("runtime.evaluation.best.max_keep", "train/saver.py", "checkpoint/save.py"),
        ("data.documents", "data/text/reading.py", "model/transformer.py"),
        ("scheduler.total_steps", "train/budget.py", "train/state.py"),
        ("data.mixture[].weight", "data/rows/row_order.py", "model/norm.py"),
        ("model.rope_scaling.factor", "model/frequencies.py", "train/loss_scale.py"),
    ],
)
def test_readers_of_a_setting_exclude_namesakes(word, reader, other):
    places = [place.split(":")[0] for entry in explain(word) for place in entry["read_by"]]
    assert reader in places
    assert other not in places


def test_every_setting_has_a_reader():
    unread = {
        entry["key"]
        for group in sections()
        for entry in _entries(group)
        if "keys" not in entry and not list(readers(tuple(entry["key"].replace("[]", "").split("."))))
    }
    in_the_tree = {
        "model.partial_rotary_factor",
        "model.rope_theta",
        "model.rope_scaling.alpha",
    }
    assert unread == {"extends", *in_the_tree}
