import json
import tomllib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from candlewick.config import MixtureSource
from candlewick.config.formats import Format, check_values, line_of, parse, write_json, write_toml
from candlewick.config.load import load_config
from candlewick.errors import ConfigError

DEEP = 33


def problems(text: str, kind: Format) -> list[tuple[int, str]]:
    return [(problem.line, problem.message) for problem in parse(text, kind).problems]


def test_equal_settings_in_json_toml_and_yaml_give_equal_trees():
    tree = {"model": {"hidden_size": 64, "rope_theta": 1e4, "qk_norm": True}, "data": {"train_shards": ["a", "b"]}}
    toml = '[model]\nhidden_size = 64\nrope_theta = 1e4\nqk_norm = true\n[data]\ntrain_shards = ["a", "b"]\n'
    yaml = "model: {hidden_size: 64, rope_theta: 1e4, qk_norm: true}\ndata:\n  train_shards: [a, b]\n"
    assert parse(json.dumps(tree), "json").tree == parse(toml, "toml").tree == parse(yaml, "yaml").tree == tree


def test_parsed_json_keys_have_line_numbers():
    text = '{\n "a": {"b": [1,\n {"c": "x\\"{,}"}], "d": 2},\n\n "e": []}'
    lines = parse(text, "json").lines
    assert lines == {("a",): 2, ("a", "b"): 2, ("a", "b", 1, "c"): 3, ("a", "d"): 3, ("e",): 5}


def test_parsed_toml_keys_have_line_numbers():
    text = 'top = 1\n# c = 2\n[a]\nb = [\n  "x = 1",\n]\n"quoted" = 1\nc.d = 2\n[ a.e ]\nf = "[g]"\n'
    lines = parse(text, "toml").lines
    assert lines == {
        ("top",): 1, ("a",): 3, ("a", "b"): 4, ("a", "quoted"): 7, ("a", "c", "d"): 8, ("a", "e"): 9,
        ("a", "e", "f"): 10,
    }  # fmt: skip


def test_toml_arrays_of_tables_have_line_numbers():
    lines = parse("[[a.b]]\nx = 1\n[[a.b]]\nx = 2\n[[c]]\ny = 3\n", "toml").lines
    assert lines == {
        ("a", "b", 0): 1, ("a", "b", 0, "x"): 2, ("a", "b", 1): 3, ("a", "b", 1, "x"): 4,
        ("c", 0): 5, ("c", 0, "y"): 6,
    }  # fmt: skip


def test_line_of_falls_back_to_the_line_of_the_section():
    lines = {("a",): 3, ("a", "b"): 5}
    assert line_of(lines, ("a", "b", 0)) == 5
    assert line_of(lines, ("a", "x")) == 3
    assert line_of(lines, ("z",)) == 1


@pytest.mark.parametrize(
    ("kind", "text", "found"),
    [
        ("json", '{"a": 1,\n"a": 2}', [(2, "given twice, first in line 1")]),
        ("json", '{"a": {"b": 1},\n"c": {"b": 1, "b": 2}}', [(2, "given twice, first in line 2")]),
        ("json", '{"a": NaN,\n"b": [1e999], "c": -Infinity}', [
            (1, "is not a finite number"), (2, "is not a finite number"), (2, "is not a finite number")]),
        ("json", '{"a": ' + "9" * 5000 + "}", [(1, "is too large a number")]),
        ("json", '{"a": -9223372036854775808}', [(1, "is too large a number")]),
        ("json", '{"a": "\\ud800"}', [(1, "has half a surrogate pair in its text")]),
        ("json", '{"a": ' + "[" * DEEP + "]" * DEEP + "}", [(1, "nested deeper than 32 levels")]),
        ("json", "[" * 100_000, [(1, "nested deeper than 32 levels")]),
        ("json", '{"a": 1,\nb}', [(2, "not valid JSON: Expecting property name enclosed in double quotes")]),
        ("json", "[1]", [(1, "should hold keys with values")]),
        ("json", "", [(1, "not valid JSON: Expecting value")]),
        ("json", "{}", [(1, "holds no settings")]),
        ("yaml", "# nothing\n", [(1, "holds no settings")]),
        ("yaml", 'a: "\\uD800"', [(1, "has half a surrogate pair in its text")]),
        ("toml", "", [(1, "holds no settings")]),
        ("toml", "a = 1\na = 2", [(2, "not valid TOML: Cannot overwrite a value")]),
        ("toml", "a = 1\nb = ", [(2, "not valid TOML: Invalid value")]),
        ("toml", "a = inf\nb = nan", [(1, "is not a finite number"), (2, "is not a finite number")]),
        ("toml", "a = 9223372036854775808", [(1, "is too large a number")]),
        ("toml", "a = 2026-01-01\nb = 10:00:00\nc = 2026-01-01T10:00:00Z", [
            (1, "is a date or time, write it as text: '2026-01-01'"),
            (2, "is a date or time, write it as text: '10:00:00'"),
            (3, "is a date or time, write it as text: '2026-01-01 10:00:00+00:00'")]),
        ("toml", "a = " + "[" * 50_000, [(1, "nested deeper than 32 levels")]),
        ("toml", "a" + ".a" * 100_000 + " = 1", [(1, "has too many dots in its keys")]),
    ],
)  # fmt: skip
def test_parse_reports_problems_with_their_lines(kind, text, found):
    assert problems(text, kind) == found


def test_number_of_5000_digits_in_toml_is_a_problem():
    [(line, what)] = problems("a = " + "9" * 5000, "toml")
    assert line == 1
    assert what.startswith("not valid TOML: Exceeds the limit")


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("yaml", "[" * 1_000_000), ("yaml", "a: " + "b " * 490_000), ("yaml", "\n" * 1_000_000),
        ("yaml", "".join(f"k{i}: 1\n" for i in range(90_000))), ("yaml", "- " * 500_000),
        ("yaml", "#" * 1_000_000),
        ("json", '{"a": [' + "1," * 490_000 + "1]}"), ("json", '{"a": "' + "\\" * 1_000_000 + '"}'),
        ("json", '"' * 1_000_001), ("json", '{"a":' * 190_000),
        ("toml", "a.b.c = 1\n" * 100_000), ("toml", "[" * 1_000_000), ("toml", "a = {b = " * 100_000),
        ("toml", ("a." * 90 + "a = 1\n") * 5000), ("toml", "a = '" + "." * 900_000 + "'"),
        ("toml", " " * 1_000_000),
    ],
)  # fmt: skip
def test_hostile_megabyte_is_parsed_to_the_end(kind, text):
    """Each takes under two seconds on a slow core; what was quadratic took minutes."""
    assert len(text) < 1_100_000
    parsed = parse(text, kind)
    assert parsed.problems or parsed.tree


def test_guard_replaces_infinities_and_surrogates_with_null():
    found = []
    value = check_values({"a": float("inf"), "b": [1, "\udfff", True]}, ("x",), lambda key, _: found.append(key))
    assert value == {"a": None, "b": [1, None, True]}
    assert found == [("x", "a"), ("x", "b", 1)]


names = st.text("abcdef_", min_size=1, max_size=8)
leaves = (
    st.booleans() | st.integers(-(1 << 63) + 1, (1 << 63) - 1) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8"))
)  # fmt: skip
tables = st.recursive(
    st.dictionaries(
        names,
        leaves | st.lists(leaves | st.dictionaries(names, leaves, max_size=2), max_size=3),
        min_size=1,
        max_size=4,
    ),
    lambda inner: st.dictionaries(names, leaves | inner, min_size=1, max_size=4),
    max_leaves=4,
)


@settings(deadline=None)
@given(tables)
def test_written_toml_reads_back_equal(tree):
    assert tomllib.loads(write_toml(tree)) == tree
    assert parse(write_toml(tree), "toml").tree == tree


@settings(deadline=None)
@given(tables)
def test_written_json_reads_back_equal(tree):
    parsed = parse(write_json(tree), "json")
    assert parsed.tree == tree
    assert not parsed.problems


@settings(deadline=None)
@given(st.sampled_from(["json", "toml"]), st.text('[]{}:,="\\.\n ab01e-', max_size=60))
def test_parse_raises_for_no_text(kind, text):
    parsed = parse(text, kind)
    assert parsed.problems or parsed.tree


@settings(deadline=None)
@given(st.text('{}[]:,"\\\n ab01', max_size=40))
def test_json_reads_as_in_the_standard_library(text):
    parsed = parse(text, "json")
    try:
        other = json.loads(text)
    except ValueError:
        assert parsed.problems
        return
    assert parsed.problems or parsed.tree == other


def test_write_json_keeps_letters_that_are_not_ascii():
    assert '"größe"' in write_json({"a": "größe"})


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("c.yaml", "data:\n  mixture:\n  - shards: [a]\n  - {shards: [b], weight: 3}\n"
                   "  validation_sets: {web: [w]}\noptimizer: {learning_rate_scales: {matrix: 2}}\n"),
        ("c.toml", '[data]\nvalidation_sets.web = ["w"]\n[[data.mixture]]\nshards = ["a"]\n'
                   '[[data.mixture]]\nshards = ["b"]\nweight = 3\n[optimizer.learning_rate_scales]\nmatrix = 2\n'),
        ("c.json", '{"data": {"mixture": [{"shards": ["a"]}, {"shards": ["b"], "weight": 3}],'
                   ' "validation_sets": {"web": ["w"]}}, "optimizer": {"learning_rate_scales": {"matrix": 2}}}'),
    ],
)  # fmt: skip
def test_mixture_and_validation_sets_are_read_in_every_format(name, text, tmp_path):
    (tmp_path / name).write_text(text)
    config = load_config(tmp_path / name, ["data.mixture[0].weight=2", "data.mixture[1].shards[1]=c"])
    a, b, c, w = (str(tmp_path / shard) for shard in "abcw")
    assert config.data.mixture == (MixtureSource(shards=(a,), weight=2), MixtureSource(shards=(b, c), weight=3))
    assert config.data.validation_sets == {"web": (w,)}
    assert config.optimizer.learning_rate_scales == {"matrix": 2.0}


@pytest.mark.parametrize(
    ("dots", "lines", "kind"), [(1000, 0, "nested"), (1000, 1, "has too many"), (1001, 0, "has too many")]
)
def test_a_thousand_dots_in_a_toml_key_are_the_most(dots, lines, kind):
    text = "a" + ".a" * dots + " = 1\n" + "b.c = 1\n" * lines
    assert problems(text, "toml")[0][1].startswith(kind)


@pytest.mark.parametrize("kind", ["json", "toml", "yaml"])
@pytest.mark.parametrize(("depth", "count"), [(32, 0), (33, 1)])
def test_settings_lie_at_most_32_levels_deep_in_every_format(kind, depth, count):
    tree = 1
    for _ in range(depth):
        tree = {"a": tree}
    text = {"toml": ".".join("a" * depth) + " = 1"}.get(kind, json.dumps(tree))
    assert len(problems(text, kind)) == count


def test_a_message_of_the_toml_reader_is_cut_at_120_characters():
    [(_, what)] = problems("a = " + "9" * 5000, "toml")
    assert len(what) == len("not valid TOML: ") + 120


def test_what_is_written_is_indented_keeps_its_letters_and_has_no_number_that_cannot_be_read():
    assert write_json({"a": {"b": "é"}}) == '{\n  "a": {\n    "b": "é"\n  }\n}\n'
    assert write_toml({"b": "é", "a": ["ü"]}) == 'b = "é"\na = ["ü"]\n'
    for write in (write_json, write_toml):
        with pytest.raises(ValueError, match="not JSON compliant"):
            write({"a": float("inf")})


def test_load_config_reads_a_file_of_one_mebibyte_at_most(tmp_path):
    text = "model: {num_layers: 2}\n"
    path = tmp_path / "c.yaml"
    path.write_text(text + "#" * ((1 << 20) - len(text)))
    assert load_config(path).model.num_layers == 2


@pytest.mark.parametrize("name", ["c.yaml", "c.json"])
def test_byte_that_is_not_utf8_is_named_with_its_line_after_a_blank_one(tmp_path, name):
    (tmp_path / name).write_bytes(b"\n\xff")
    with pytest.raises(ConfigError, match=f"{name}:2: not UTF-8 text"):
        load_config(tmp_path / name)


def test_load_config_lists_twenty_problems_and_counts_the_rest(tmp_path):
    for count, said in ((20, "k19: unknown key (fix"), (21, "; and 1 more (fix")):
        (tmp_path / "c.yaml").write_text("".join(f"k{i}: 1\n" for i in range(count)))
        with pytest.raises(ConfigError) as caught:
            load_config(tmp_path / "c.yaml")
        assert said in " ".join(str(caught.value).split())


def test_override_lies_at_most_32_levels_deep():
    for depth, is_too_deep in ((32, False), (33, True)):
        with pytest.raises(ConfigError) as caught:
            load_config(None, [".".join("a" * depth) + "=1"])
        assert ("nested deeper than 32 levels" in str(caught.value)) is is_too_deep
