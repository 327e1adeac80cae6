import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from candlewick.config import RunConfig
from candlewick.config.formats import Format
from candlewick.config.load import load_config
from candlewick.config.tree import dump, flatten, without_retired

KINDS: tuple[Format, ...] = ("yaml", "toml", "json")
text = st.text(st.characters(codec="utf-8"), max_size=20) | st.sampled_from(["null", "010", "1e5", "yes", "~"])


def test_flatten_returns_settings_by_dotted_keys():
    flat = flatten(load_config(None, ["optimizer.learning_rate_scales.matrix=2"]))
    assert flat["optimizer.learning_rate_scales.matrix"] == 2.0
    assert flat["data.validation_sets"] == {}
    assert flat["runtime.sample.prompts"] == [""]


counts = st.integers(1, 1 << 40)
fractions = st.floats(0, 1, exclude_max=True, allow_subnormal=False)
positives = st.floats(0, exclude_min=True, allow_infinity=False)
paths = st.text("abc./é \"'#-", min_size=1, max_size=10).map(
    lambda name: str(Path("/somewhere") / name.strip("/"))
)


def some(**keys):
    """A section with some of these keys."""
    return st.fixed_dictionaries({}, optional=keys)


configs = some(
    model=st.builds(
        lambda heads, groups, rest: {"num_attention_heads": heads * groups, "num_key_value_heads": heads, **rest},
        st.integers(1, 4), st.integers(1, 4),
        some(hidden_size=counts, intermediate_size=counts, vocab_size=st.none() | counts,
             rope_theta=st.floats(1e-30, 1e30), tie_word_embeddings=st.booleans(),
             attn_dropout=fractions).map(lambda rest: {"head_dim": 8, **rest}),
    ),
    tokenizer=some(tokenizer_json=st.none() | paths, vocab_size=st.integers(258, 1 << 20)),
    data=some(train_shards=st.lists(paths | st.just("stdlib://"), max_size=3), text_field=text,
              documents=st.sampled_from(["file", "line"]), num_workers=st.none() | counts,
              validation_sets=st.dictionaries(st.text("ab_", min_size=1), st.lists(paths), max_size=2),
              batch_ramp=st.lists(st.fixed_dictionaries({"steps": counts, "global_batch_size": counts})),
              sequence_length=st.none() | st.integers(2, 512)),
    optimizer=some(learning_rate=positives, max_grad_norm=st.none() | positives,
                   learning_rate_scales=some(matrix=positives, vector=positives))
    | some(beta1=fractions, decay=st.sampled_from(["all", "matrices"])).map(lambda s: s | {"algorithm": "adam_w"}),
    scheduler=some(warmup_steps=st.none() | counts, total_epochs=st.none() | positives, min_lr=st.just(0.0)),
    runtime=some(
        seed=st.integers(0, (1 << 63) - 1), deterministic=st.booleans(),
        sample=st.none() | some(prompts=st.lists(text, max_size=3), top_k=st.none() | counts),
        evaluation=some(best=st.none() | some(directory=st.none() | paths), every_n_steps=st.none() | counts),
        logging=some(tensorboard=st.none() | st.booleans() | paths),
    ),
)  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(configs)
def test_the_resolved_tree_rebuilds_the_configuration(tmp_path_factory, kind, tree):
    config = RunConfig.model_validate_json(json.dumps(tree))
    path = tmp_path_factory.getbasetemp() / f"resolved.{kind}"
    path.write_text(dump(config, kind), encoding="utf-8")
    assert load_config(path) == config


@pytest.mark.parametrize("kind", KINDS)
def test_resolved_tree_loads_equal_from_any_working_directory(kind, tmp_path, monkeypatch):
    for folder in ("a", "elsewhere"):
        (tmp_path / folder).mkdir()
    (tmp_path / "a/c.yaml").write_text("data: {train_shards: [t.txt]}\ntokenizer: {tokenizer_json: tok}\n")
    monkeypatch.chdir(tmp_path)
    config = load_config("a/c.yaml", ["runtime.sample=null"])
    (tmp_path / f"elsewhere/run.{kind}").write_text(dump(config, kind), encoding="utf-8")
    monkeypatch.chdir("/")
    assert load_config(tmp_path / f"elsewhere/run.{kind}") == config


def test_dump_toml_writes_null_only_where_the_default_is_not_null():
    text = dump(load_config(None, ["runtime.sample=null", "runtime.evaluation.every_n_steps=null"]), "toml")
    assert [line for line in text.splitlines() if "null" in line] == ['sample = "null"', 'every_n_steps = "null"']
    assert "vocab_size = 32000" in text
    assert "num_workers" not in text


def test_retired_keys_are_dropped_and_told_if_they_were_set():
    notes: list[str] = []
    tree = {"data": {"cache_max_bytes": None, "format": "text"}, "model": {}}
    assert without_retired(tree, notes.append) == {"data": {"format": "text"}, "model": {}}
    assert (notes, tree["data"]["cache_max_bytes"]) == ([], None)
    assert without_retired({"data": {"cache_max_bytes": 5}}, notes.append) == {"data": {}}
    (note,) = notes
    assert note.startswith("data.cache_max_bytes does nothing any more")
    for tree in ({}, {"data": 3}, {"data": {"format": "chat"}}):
        assert without_retired(tree, notes.append) == tree
