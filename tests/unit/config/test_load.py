from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from candlewick.config import (
    AdamWConfig,
    BatchStage,
    LinearScaling,
    MixtureSource,
    MuonConfig,
    NtkScaling,
    RunConfig,
)
from candlewick.config.load import load_config, load_with_origins, profiles
from candlewick.config.tree import flatten
from candlewick.errors import ConfigError


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch) -> Path:
    """Every test runs in an empty folder of its own."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(name: str, text: str) -> str:
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return name


def refusal(source, overrides=()) -> str:
    """The message of a configuration that is refused: one line, after the command line has joined it."""
    with pytest.raises(ConfigError) as caught:
        load_config(source, overrides)
    return " ".join(str(caught.value).split())


def test_load_config_of_none_returns_the_defaults():
    assert load_config(None) == RunConfig()


@pytest.mark.parametrize("name", profiles())
def test_profile_loads_with_training_text(name):
    assert load_config(name).data.train_shards or name == "orchestrate"  # which is given its text


def test_defaults_then_parents_then_file_then_overrides():
    write("a/base.yaml", "extends: local\nmodel: {num_layers: 3, hidden_size: 64}\ndata: {train_shards: [x, y]}\n")
    write("top.json", '{"extends": "a/base.yaml", "model": {"hidden_size": 32}, "data": {"train_shards": ["z"]}}')
    config = load_config(
        "top.json", ["model.max_position_embeddings=16", "model.hidden_size=8", "model.hidden_size=4"]
    )
    assert config.model.num_attention_heads == 2  # local
    assert config.model.num_layers == 3  # a/base.yaml
    assert config.data.train_shards == (str(Path("z").absolute()),)  # top.json: lists are replaced
    assert (config.model.hidden_size, config.model.max_position_embeddings) == (4, 16)  # the last override
    assert config.model.rms_norm_eps == 1e-6  # default


def test_null_disables_a_section_and_an_override_enables_it():
    write("c.yaml", "runtime: {sample: null}\n")
    assert load_config("c.yaml").runtime.sample is None
    sample = load_config("c.yaml", ["runtime.sample.top_k=3"]).runtime.sample
    assert sample is not None
    assert sample.top_k == 3


def test_another_algorithm_drops_the_optimizer_settings_of_lower_layers():
    write("muon.yaml", "optimizer: {algorithm: muon, learning_rate: 0.5, momentum: 0.9}\n")
    write("adam.yaml", "extends: muon.yaml\noptimizer: {algorithm: adam_w, beta1: 0.8}\n")
    write("same.yaml", "extends: muon.yaml\noptimizer: {algorithm: muon, beta1: 0.8}\n")
    assert load_config("adam.yaml").optimizer == AdamWConfig(beta1=0.8)
    assert load_config("same.yaml").optimizer == MuonConfig(learning_rate=0.5, momentum=0.9, beta1=0.8)
    both = ["optimizer.learning_rate=0.25", "optimizer.algorithm=adam_w"]
    assert load_config("muon.yaml", both).optimizer == AdamWConfig(learning_rate=0.25)
    assert load_config(None, ["optimizer.algorithm=muon", "optimizer.beta1=0.8"]).optimizer == MuonConfig(
        beta1=0.8
    )


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"a.yaml": "extends: a.yaml\n"}, "a.yaml: `extends: a.yaml` leads back to a file that extends it"),
        (
            {"a.yaml": "extends: b.yaml\n", "b.yaml": "extends: ./a.yaml\n"},
            "b.yaml: `extends: ./a.yaml` leads back",
        ),
        ({"a.yaml": "extends: nope.yaml\n"}, "cannot read the configuration nope.yaml: No such file"),
        ({"a.yaml": "model: {}\nextends: [demo]\n"}, "a.yaml:2: extends: should be a profile's name or one path"),
        (
            {"a.yaml": "extends: b.yaml\n", "b.yaml": "model: 3\n"},
            "b.yaml:1: model: should be a section with keys",
        ),
    ],
)
def test_wrong_extends_is_refused_with_file_and_reason(files, said):
    for name, text in files.items():
        write(name, text)
    assert said in refusal("a.yaml")


def test_extends_chain_is_limited_to_eight_files():
    for i in range(20):
        write(f"{i}.yaml", f"extends: {i + 1}.yaml\nmodel: {{num_layers: {i + 1}}}\n")
    assert "0.yaml: `extends` goes through more than 8 files" in refusal("0.yaml")
    write("8.yaml", "model: {num_layers: 77, num_attention_heads: 2}\n")
    assert load_config("0.yaml").model.num_attention_heads == 2


def test_relative_paths_belong_to_the_folder_of_their_file(here):
    write(
        "a/base.yaml",
        "tokenizer: {tokenizer_json: tok}\ndata: {train_shards: [t.txt, 'stdlib://'], cache_dir: ~/c}\n",
    )
    write("b/top.toml", 'extends = "../a/base.yaml"\n[data]\nvalidation_shards = ["../v.txt"]\n')
    config = load_config("b/top.toml", ["runtime.checkpoint.directory=ck", "data.train_shards[1]=u.txt"])
    assert config.tokenizer.tokenizer_json == here / "b/../a/tok"
    assert config.data.train_shards == (str(here / "b/../a/t.txt"), str(here / "b/u.txt"))
    assert config.data.validation_shards == (str(here / "b/../v.txt"),)
    assert config.data.cache_dir == Path.home() / "c"
    assert config.runtime.checkpoint.directory == here / "b/ck"
    assert load_config("local", ["data.train_shards=[x]"]).data.train_shards == (str(here / "x"),)


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("model.hidden_size=96", "model.hidden_size", 96),
        (" model.hidden_size = 96 ", "model.hidden_size", 96),
        ("optimizer.learning_rate=1e-3", "optimizer.learning_rate", 1e-3),
        ("runtime.deterministic=true", "runtime.deterministic", True),
        ("runtime.evaluation.every_n_steps=null", "runtime.evaluation.every_n_steps", None),
        ("data.text_field=a=b", "data.text_field", "a=b"),
        ("data.text_field=", "data.text_field", ""),
        ('data.text_field="null"', "data.text_field", "null"),
        ("data.text_field=a: b # c", "data.text_field", "a: b # c"),
        ("runtime.sample.prompts=[a, 'b, c']", "runtime.sample.prompts", ("a", "b, c")),
        ("runtime.sample.prompts[0]=x", "runtime.sample.prompts", ("x",)),
        ("runtime.sample.prompts[1]=x", "runtime.sample.prompts", ("", "x")),
        ("data.train_shards[0]=s3://b/x", "data.train_shards", ("s3://b/x",)),
        ("runtime.sample={top_k: 3}", "runtime.sample.top_k", 3),
        ("optimizer.learning_rate_scales.matrix=2", "optimizer.learning_rate_scales", {"matrix": 2.0}),
        ("data.validation_sets.web[0]=s3://b/x", "data.validation_sets", {"web": ("s3://b/x",)}),
        (
            "data.mixture=[{shards: ['s3://b/x'], weight: 3}]",
            "data.mixture",
            (MixtureSource(shards=("s3://b/x",), weight=3),),
        ),
        (
            "data.batch_ramp[0]={steps: 2, global_batch_size: 8}",
            "data.batch_ramp",
            (BatchStage(steps=2, global_batch_size=8),),
        ),
    ],
)
def test_override_sets_the_value_of_a_key(override, key, value):
    found = load_config(None, [override])
    for part in key.split("."):
        found = getattr(found, part)
    assert found == value


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("model.hidden_size", "--override: 'model.hidden_size' should be KEY=VALUE, for example"),
        ("=3", "--override: '=3' should be KEY=VALUE"),
        ("model..x=3", "should be KEY=VALUE"),
        ("model[x]=3", "should be KEY=VALUE"),
        ("data.batch_size=4", "--override: data.batch_size: unknown key, did you mean data.micro_batch_size?"),
        ("model.hidden_siz=3", "--override: model.hidden_siz: unknown key, did you mean model.hidden_size?"),
        ("model.hidden_size=big", '--override: model.hidden_size: should be a whole number (got "big")'),
        ("model.hidden_size.x=3", "--override: model.hidden_size: should be a whole number (got a section)"),
        ("model.hidden_size=[1", "--override: model.hidden_size: not valid YAML"),
        ("optimizer.learning_rate=.nan", "--override: optimizer.learning_rate: .nan is not a finite number"),
        (
            "data.num_workers=99999999999999999999",
            "--override: data.num_workers: 99999999999999999999 is too large",
        ),
        ("runtime.sample.prompts[2]=x", "runtime.sample.prompts has 1 entries, so the next one is [1]"),
        ("model.hidden_size[0]=3", "--override: model.hidden_size[0]: model.hidden_size is not a list"),
        ("data.text_field=\udcff", "--override: data.text_field: has half a surrogate pair"),
        ("data.cache_dir=", "--override: data.cache_dir: should be a path, or null (got '')"),
        (".".join("a" * 40) + "=1", "nested deeper than 32 levels"),
        ("extends=local", "--override: extends: can stand in a file only"),
    ],
)
def test_wrong_override_is_refused_with_key_and_reason(override, said):
    assert said in refusal(None, [override])


def test_override_below_a_scalar_of_a_file_is_refused():
    write("c.yaml", "model:\n  hidden_size: 64\n")
    assert "--override: model.hidden_size.x: model.hidden_size is not a section" in refusal(
        "c.yaml", ["model.hidden_size.x=1"]
    )


def test_all_problems_are_reported_with_file_and_line():
    write("base.toml", '[model]\nhidden_size = 64\nhiden_size = "x"\n')
    write(
        "c.yaml",
        "extends: base.toml\n"
        "model:\n  num_layers: many\n  num_layers: .inf\n  sequence_length: 4\n"
        "data: {train_shards: 3}\n"
        "runtime:\n  logging: {tensorboard: yes}\n",
    )
    message = refusal("c.yaml", ["scheduler.strategy=cosin"])
    assert message.startswith("7 problems: ")
    for said in (
        "base.toml:3: model.hiden_size: unknown key, did you mean model.hidden_size?",
        "c.yaml:4: model.num_layers: given twice, first in line 3",
        "c.yaml:4: model.num_layers: .inf is not a finite number",
        "c.yaml:5: model.sequence_length: unknown key, did you mean data.sequence_length?",
        "c.yaml:6: data.train_shards: should be a list (got ",
        "c.yaml:8: runtime.logging.tensorboard: should be true, false or a path (got 'yes')",
        '(got "cosin", did you mean cosine?)',
    ):
        assert said in message


def test_conflict_between_settings_names_the_line_of_the_section():
    write("c.yaml", "tokenizer: {}\nmodel:\n  num_attention_heads: 4\n  num_key_value_heads: 3\n")
    assert refusal("c.yaml").startswith("c.yaml:2: model: num_attention_heads=4 is not a multiple of")
    write("ends.yaml", "scheduler: {total_steps: 3, total_tokens: 9}\n")
    assert refusal("ends.yaml").startswith("ends.yaml: scheduler has more than one end")
    assert refusal(None, ["model.head_dim=3"]).startswith("--override: model: head_dim=3 is odd")


def test_end_of_the_run_in_a_layer_replaces_the_end_below():
    config = load_config("local", ["scheduler.total_tokens=9", "scheduler.total_epochs=null"])
    assert (config.scheduler.total_steps, config.scheduler.total_tokens) == (None, 9)
    write("c.yaml", "extends: local\nscheduler: {total_seconds: 5}\n")
    assert load_config("c.yaml").scheduler.total_steps is None
    assert load_config("c.yaml", ["scheduler.warmup_steps=3"]).scheduler.total_seconds == 5.0


def test_training_text_or_batch_size_of_a_layer_replaces_the_alternative_below():
    write("c.yaml", "extends: demo\ndata: {mixture: [{shards: ['stdlib://']}], global_batch_tokens: 9999}\n")
    data = load_config("c.yaml").data
    assert (data.train_shards, len(data.mixture)) == ((), 1)
    data = load_config("c.yaml", ["data.train_shards=['stdlib://']", "data.global_batch_size=8"]).data
    assert (data.mixture, data.global_batch_tokens, data.global_batch_size) == ((), None, 8)
    write("both.yaml", "data: {mixture: [{shards: [a]}], train_shards: [a]}\n")
    assert "train_shards and mixture both say" in refusal("both.yaml")


def test_problem_in_a_toml_array_of_tables_has_its_line():
    write("c.toml", '[[data.mixture]]\nshards = ["a"]\n\n[[data.mixture]]\nshards = ["b"]\nwieght = 3\n')
    assert refusal("c.toml").startswith(
        "c.toml:6: data.mixture[1].wieght: unknown key, did you mean data.mixture.weight?"
    )


def test_run_folder_is_read_as_its_config_yaml(here):
    write("run/config.yaml", "model: {num_layers: 2}\n")
    assert load_config("run") == load_config("run/config.yaml")
    write("c.yaml", "extends: run\n")
    assert load_config("c.yaml").model.num_layers == 2


def test_load_with_origins_names_the_source_of_each_setting():
    write(
        "base.json",
        '{"optimizer": {"algorithm": "sgd", "momentum": 0.5},\n"data": {"validation_sets": {"a": ["x"]}}}',
    )
    write("c.yaml", "extends: base.json\noptimizer:\n  nesterov: true\nruntime: {sample: null}\n")
    config, origins = load_with_origins("c.yaml", ["data.num_workers=1", "runtime.evaluation={max_tokens: 3}"])
    assert config == load_config("c.yaml", ["data.num_workers=1", "runtime.evaluation={max_tokens: 3}"])
    assert origins.keys() == flatten(config).keys()
    assert {key: place for key, place in origins.items() if place != "default"} == {
        "optimizer.algorithm": "base.json:1",
        "optimizer.momentum": "base.json:1",
        "optimizer.nesterov": "c.yaml:3",
        "data.validation_sets.a": "base.json:2",
        "data.num_workers": "--override",
        "runtime.sample": "c.yaml:4",
        "runtime.evaluation.max_tokens": "--override",
    }
    _, other = load_with_origins("c.yaml", ["optimizer.algorithm=lion"])
    assert [key for key, place in other.items() if key.startswith("optimizer.") and place != "default"] == [
        "optimizer.algorithm"
    ]


def test_very_many_problems_are_counted_not_listed():
    write("c.yaml", "".join(f"k{i}: 1\n" for i in range(500)))
    message = refusal("c.yaml")
    assert message.startswith("500 problems: ")
    assert "; and 480 more (fix: " in message
    assert len(message) < 3000


def test_a_value_is_never_echoed_at_length():
    write("c.yaml", f"model: {{hidden_size: {'x' * 10_000}}}\n")
    assert len(refusal("c.yaml")) < 200


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("c.yaml", b"", "c.yaml:1: holds no settings"),
        ("c.yaml", b"a: [\n", "c.yaml:2: not valid YAML"),
        ("c.json", b"{\n", "c.json:2: not valid JSON"),
        ("c.toml", b"a =\n", "c.toml:1: not valid TOML"),
        ("c.yaml", b"a: 1\nb: \xff\n", "c.yaml:2: not UTF-8 text (fix: save the file as UTF-8)"),
        ("c.yaml", "a: 1".encode("utf-16"), "c.yaml:1: not UTF-8 text"),
        ("c.yaml", b"#" * ((1 << 20) + 1), "c.yaml is larger than 1048576 bytes"),
        ("c.txt", b"a: 1", "c.txt: a configuration ends in .yaml, .yml, .toml, .tml, .json"),
        ("c", b"a = 1", "c:1: a: unknown key"),
    ],
)
def test_malformed_configuration_file_is_refused(name, content, said):
    Path(name).write_bytes(content)
    assert said in refusal(name)


def test_byte_order_mark_is_ignored():
    Path("c.yaml").write_bytes(b"\xef\xbb\xbfmodel: {num_layers: 2}\n")
    assert load_config("c.yaml").model.num_layers == 2


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (
            "dmeo",
            "cannot read the configuration dmeo: No such file or directory (fix: did you mean the profile demo?)",
        ),
        ("x/y.yaml", "No such file or directory (fix: give a file or a profile: demo, local, m3_21m"),
        (".", "cannot read the configuration .: No such file or directory"),
        ("a\0b", "not a path"),
        ("~no-such-user-here/c.yaml", "not a path"),
    ],
)
def test_missing_configuration_file_is_refused(source, said):
    assert said in refusal(source)


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(["c.yaml", "c.json", "c.toml"]),
    st.binary(max_size=200) | st.text('{}[]:,="\n \\model.hidden_size0123456789.e-', max_size=100).map(str.encode),
)
def test_load_config_raises_only_config_errors_for_any_file(tmp_path_factory, name, content):
    path = tmp_path_factory.getbasetemp() / name
    path.write_bytes(content)
    with suppress(ConfigError):
        load_config(path)


@settings(deadline=None)
@given(st.text("model.hidden_size=[]{}\"'0123456789,: &*!-e", max_size=50))
def test_load_config_raises_only_config_errors_for_any_override(override):
    with suppress(ConfigError):
        load_config(None, [override, "model.num_layers=" + override])


def test_string_null_is_null_in_toml_only():
    write("c.toml", '[runtime]\nsample = "null"\n[data]\ntext_field = "null"\n')
    config = load_config("c.toml")
    assert config.runtime.sample is None
    assert config.data.text_field == "null"
    write("c.yaml", 'runtime: {sample: "null"}\n')
    assert "runtime.sample: should be a section with keys" in refusal("c.yaml")


def test_end_of_the_run_below_an_unknown_key_is_refused():
    with pytest.raises(ConfigError, match=r"--override: scheduler\.foo: unknown key"):
        load_config(None, ["scheduler.foo.total_steps=5"])


def test_naming_the_default_algorithm_keeps_settings_of_lower_layers():
    write("base.yaml", "optimizer: {learning_rate: 0.5}\n")
    write("muon.yaml", "extends: base.yaml\noptimizer: {algorithm: muon}\n")
    write("adam.yaml", "extends: base.yaml\noptimizer: {algorithm: adam_w}\n")
    assert load_config("muon.yaml").optimizer == MuonConfig(learning_rate=0.5)
    assert load_config("adam.yaml").optimizer == AdamWConfig()


def test_naming_a_rope_type_keeps_settings_of_lower_layers():
    write("base.yaml", "model: {rope_scaling: {alpha: 2.0}}\n")
    write("ntk.yaml", "extends: base.yaml\nmodel: {rope_scaling: {rope_type: ntk}}\n")
    write("linear.yaml", "extends: ntk.yaml\nmodel: {rope_scaling: {rope_type: linear, factor: 3.0}}\n")
    assert load_config("ntk.yaml").model.rope_scaling == NtkScaling(rope_type="ntk", alpha=2.0)
    assert load_config("linear.yaml").model.rope_scaling == LinearScaling(rope_type="linear", factor=3.0)


def test_an_override_of_a_section_is_the_place_of_what_is_wrong_in_it():
    write("c.yaml", "model:\n  hidden_size: 64\nruntime: {sample: {top_k: 3}}\n")
    assert refusal("c.yaml", ["model={hidden_size: big}"]).startswith("--override: model.hidden_size: should be")
    _, origins = load_with_origins("c.yaml", ["runtime.sample={top_k: 4}"])
    assert origins["runtime.sample.top_k"] == "--override"
