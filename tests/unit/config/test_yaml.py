import math

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from candlewick.config.formats import parse
from candlewick.config.yaml import (
    ParseResult,
    Problem,
    format_key,
    parse_value,
    read_scalar,
    read_yaml,
    shorten,
    write_yaml,
)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", None), ("~", None), ("null", None), ("true", True), ("false", False),
        ("0", 0), ("-7", -7), ("+7", 7), ("10_000", 10_000), ("9223372036854775807", (1 << 63) - 1),
        ("1e-4", 1e-4), ("3e-4", 3e-4), ("1E5", 1e5), ("1.", 1.0), (".5", 0.5), ("-0.25", -0.25),
        ("1.5e+3", 1500.0),
        *[(text, text) for text in (
            "010", "00", "0x10", "0o7", "1:30", "2026-01-01", "yes", "no", "on", "off", "True", "NULL", "Null",
            "1e", "e5", ".", "-", "+", "1.2.3", "_1", "1__0", "1_", "nan", "inf", "stdlib://", "1 000", "0_1", "٣",
        )],
    ],
)  # fmt: skip
def test_read_scalar_returns_value_and_type_of_plain_text(text, value):
    found = read_scalar(text)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize("text", [".inf", "-.inf", ".nan", ".NaN", "1e999", "-1e999", str(1 << 63), "9" * 5000])
def test_read_scalar_refuses_numbers_that_are_not_finite_or_too_large(text):
    with pytest.raises(ValueError, match=r"not a finite number|too large"):
        read_scalar(text)


@settings(deadline=None)
@given(st.integers(-(1 << 63) + 1, (1 << 63) - 1))
def test_every_63_bit_integer_reads_as_itself(value):
    assert read_scalar(str(value)) == value


@settings(deadline=None)
@given(st.floats(allow_nan=False, allow_infinity=False))
def test_every_finite_float_reads_as_itself(value):
    found = read_scalar(repr(value))
    assert found == value
    assert isinstance(found, float)
    assert math.copysign(1, found) == math.copysign(1, value)


def test_parse_yaml_returns_a_tree_with_line_numbers():
    parsed = parse('# head\na: 1\nb:\n  c: [x, "2", 3]\n  d: {e: null}\n"f g": |\n  two\n  lines\n', "yaml")
    assert parsed.tree == {"a": 1, "b": {"c": ["x", "2", 3], "d": {"e": None}}, "f g": "two\nlines\n"}
    assert parsed.problems == []
    wanted = {("a",): 2, ("b",): 3, ("b", "c"): 4, ("b", "c", 2): 4, ("b", "d", "e"): 5, ("f g",): 6}
    assert wanted.items() <= parsed.lines.items()


@pytest.mark.parametrize("text", ["", "# only a comment\n", "---\n", "null\n"])
def test_empty_document_is_an_empty_tree(text):
    parsed = ParseResult()
    assert read_yaml(text, parsed) is None
    assert parsed.problems == []


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("a: 1\nb: &x 2", 2, "anchors and aliases (x) are not supported"),
        ("a: *x", 1, "anchors and aliases (x) are not supported"),
        ("a: !!python/object/apply:os.system [ls]", 1, "tags (tag:yaml.org,2002:python/object/apply:os.system)"),
        ("a: !x 1", 1, "tags (!x) are not supported"),
        ("&k a: 1", 1, "a key should be plain text"),
        ("!!str a: 1", 1, "a key should be plain text"),
        ("? [a]\n: 1", 1, "a key should be plain text"),
        ("a: 1\n---\nb: 2", 2, "a second document"),
        ("- a\n- b", 1, "should hold keys with values"),
        ("just text", 1, "should hold keys with values"),
        ("a: [1\nb: 2", 2, "not valid YAML"),
        ("a:\n\t- b", 2, "not valid YAML: found character '\\t'"),
        ("a: b: c", 1, "not valid YAML: mapping values are not allowed here"),
        ('a: "\n\n', 3, "not valid YAML"),
        ("a: 1\nb: \x07", 2, "not valid YAML: U+0007 cannot stand there"),
        ("%YAML 3.0\n---\na: 1", 1, "not valid YAML"),
        ("a: " + "[" * 40 + "]" * 40, 1, "nested deeper than 32 levels"),
        ("[" * 100_000, 1, "nested deeper than 32 levels"),
        ("{a: " * 5000, 1, "nested deeper than 32 levels"),
        ("a: [" + "1, " * 20_000 + "1]", 1, "more than 20000 values"),
        ('a: "\\UFFFFFFFF"', 1, "not valid YAML"),
    ],
)
def test_unsupported_yaml_is_reported_with_its_line(text, line, said):
    problem = parse(text, "yaml").problems[0]
    assert (problem.line, problem.key) == (line, None)
    assert problem.message.startswith(said)
    assert len(problem.message) < 200


def test_parse_yaml_continues_after_a_duplicate_key_or_wrong_number():
    parsed = parse("a: .inf\nb: 1\nc:\n  d: 1e999\nb: 2\n<<: {e: 3}\n", "yaml")
    assert parsed.problems == [
        Problem(1, ("a",), ".inf is not a finite number"),
        Problem(4, ("c", "d"), "1e999 is not a finite number"),
        Problem(5, ("b",), "given twice, first in line 2"),
    ]
    assert parsed.tree == {"a": None, "b": 2, "c": {"d": None}, "<<": {"e": 3}}


def test_billion_laughs_are_reported_as_one_problem():
    bomb = "a0: &a0 [x, x]\n" + "".join(f"a{i + 1}: &a{i + 1} [{', '.join([f'*a{i}'] * 9)}]\n" for i in range(9))
    assert [problem.line for problem in parse(bomb, "yaml").problems] == [1]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", ""), ("3", 3), ("a: b # c", "a: b # c"), ("- x", "- x"), ("*x", "*x"), ("null", None), ("stdlib://", "stdlib://"),
        ("[a, 1e-4, [true]]", ["a", 1e-4, [True]]), ("{a: {b: 1}}", {"a": {"b": 1}}), ("[]", []), ("{}", {}),
        ('"3"', "3"), ("'a=b'", "a=b"), ('"\\n"', "\n"), ('"a": 3', {"a": 3}),
    ],
)  # fmt: skip
def test_the_value_of_an_override_is_a_scalar_or_flow_yaml(text, value):
    assert parse_value(text) == value


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[a", "not valid YAML"),
        ("1e999", "finite"),
        ("[1e999]", "finite"),
        ("[&a 1]", "anchors"),
        ('"a" b', "not valid"),
    ],
)
def test_parse_value_refuses_wrong_text(text, said):
    with pytest.raises(ValueError, match=said):
        parse_value(text)


scalars = (
    st.none() | st.booleans() | st.integers(-(1 << 63) + 1, (1 << 63) - 1)
    | st.floats(allow_nan=False, allow_infinity=False) | st.text(st.characters(codec="utf-8"))
    | st.sampled_from(["010", "1e5", "yes", "null", "~", "", ".inf", "1:30", "2026-01-01", "a: b", "#", "&a"])
)  # fmt: skip
trees = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("abc_", min_size=1), inner, max_size=4),
    max_leaves=10,
)


@settings(deadline=None)
@given(st.dictionaries(st.text("abcdef_", min_size=1), trees, min_size=1, max_size=5))
@example({"a": "\x85"})
@example({"a": ["x"] * 3, "b": {"c": "\x85\u2028 \ufeff"}})
def test_written_yaml_reads_back_equal(tree):
    parsed = parse(write_yaml(tree), "yaml")
    assert parsed.problems == []
    assert parsed.tree == tree


@settings(deadline=None)
@given(st.text(max_size=200) | st.text("[]{}:,-?&*!|>'\"%@`#\n \t01.eab_", max_size=60))
def test_parse_yaml_raises_for_no_text(text):
    parsed = parse(text, "yaml")
    assert parsed.problems or isinstance(parsed.tree, dict)


@settings(deadline=None)
@given(st.text("[]{}:,-'\" \n01.eab", max_size=40))
def test_simple_documents_read_as_in_pyyaml(text):
    parsed = parse(text, "yaml")
    if parsed.problems or not parsed.tree:
        return
    other = yaml.load(text, Loader=yaml.BaseLoader)
    assert as_text(parsed.tree) == as_text(other)


def as_text(value):
    """Compare structure and text only: our scalars are typed, BaseLoader's are all text."""
    if isinstance(value, dict):
        return {key: as_text(item) for key, item in value.items()}
    if isinstance(value, list):
        return [as_text(item) for item in value]
    return (
        ""
        if isinstance(value, str) and read_scalar(value) != value
        else ""
        if not isinstance(value, str)
        else value
    )


def test_keys_are_written_as_in_overrides():
    assert format_key(("a", "b", 0, "c")) == "a.b[0].c"
    assert format_key(()) == ""
    assert len(format_key(("a" * 1000,))) == 100


def test_shorten_cuts_long_text():
    assert shorten("abc", 3) == "abc"
    assert shorten("abcdef", 5) == "ab..."


def test_shorten_escapes_terminal_control_characters():
    assert shorten("a\x1b[31m\n\u2028é\udcff") == "a\\x1b[31m\\n\\u2028é\\udcff"
    assert len(shorten("\x1b" * 1000)) == 60


def test_twenty_thousand_values_are_the_most():
    text = "a: [" + "1, " * 19_997 + "1]"  # the mapping, the list and what is in it
    assert not parse(text, "yaml").problems
    assert parse(text.replace("[", "[1, "), "yaml").problems[0].message == "more than 20000 values"


@pytest.mark.parametrize("sign", ["", "-", "+"])
def test_the_largest_number_of_63_bits_may_have_a_sign(sign):
    assert read_scalar(f"{sign}9223372036854775807") == int(f"{sign}9223372036854775807")


def test_a_first_line_that_is_blank_counts():
    assert parse("\na: \x07", "yaml").problems[0].line == 2
    assert parse("\n\x07", "yaml").problems[0].line == 2


def test_a_message_of_the_parser_is_cut_at_120_characters():
    [problem] = parse(f"a: !{'e' * 300}!x 1", "yaml").problems
    assert len(problem.message) == len("not valid YAML: ") + 120


def test_keys_are_written_in_their_order_and_text_on_one_line_in_its_letters():
    text = "größe " * 100
    assert write_yaml({"b": text.strip(), "a": {"c": 1}}) == f"b: {text.strip()}\na:\n  c: 1\n"
