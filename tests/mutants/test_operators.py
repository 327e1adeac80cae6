"""Mutation operators give valid, different programs and leave messages and documentation unchanged."""

from pathlib import Path

import pytest
from tests.mutants.operators import lines_of, mutations

PACKAGE = Path(__file__).resolve().parents[2] / "src" / "candlewick"


def afters(source: str, operator: str | None = None) -> list[str]:
    return [m.after(source) for m in mutations(source) if operator in (None, m.operator)]


@pytest.mark.parametrize(
    ("operator", "before", "after"),
    [
        ("comparison", "a < b", ["a <= b"]),
        ("comparison", "a is not b", ["a is b"]),
        ("comparison", "a not  in b", ["a in b"]),
        ("comparison", "0 <= (a) < b", ["0 < (a) < b", "0 <= (a) <= b"]),
        ("arithmetic", "a + b - c", ["a - b - c", "a + b + c"]),
        ("arithmetic", "(a + b) // (c)", ["(a - b) // (c)", "(a + b) * (c)"]),
        ("arithmetic", "a ** b", ["a * b"]),
        ("arithmetic", "x |= y", ["x &= y"]),
        ("and, or", "a and b and c", ["a or b and c", "a and b or c"]),
        ("sign dropped", "not (a or b)", ["(a or b)"]),
        ("sign dropped", "f(-x)", ["f(x)"]),
        ("constant", "x = 1_000", ["x = 1001"]),
        ("constant", "x = 0.5", ["x = 1.5"]),
        ("constant", "x = True", ["x = False"]),
        ("condition negated", "a if f(b) else c", ["a if (not (f(b))) else c"]),
        ("condition negated", "[x for x in y if x > 1]", ["[x for x in y if (not (x > 1))]"]),
        ("argument dropped", "f(a, key=1, other=b)", ["f(a, other=b)", "f(a, key=1)"]),
        ("argument dropped", "f(key=1)", ["f()"]),
        ("function", "min(a, b)", ["max(a, b)"]),
        ("statement removed", "f(x)", ["pass"]),
        ("statement removed", "a.b = 1", ["pass"]),
        ("statement removed", "x += 1", ["pass"]),
    ],
)
def test_operator_changes_code_at_its_position(operator, before, after):
    assert afters(before, operator) == after


def test_mutation_positions_count_bytes_and_not_characters():
    assert afters('x = {"ä€": a + b}', "arithmetic") == ['x = {"ä€": a - b}']


def test_return_value_is_replaced_by_none():
    source = "def f(a):\n    return (\n        a\n    )\ndef g():\n    return None\n"
    assert [m.apply(source) for m in mutations(source)] == [source.replace("        a\n", "        None\n")]


def test_assignment_is_removed_if_the_name_has_a_value_before():
    source = "def f(a):\n    b = a\n    a = g()\n    b = h()\n    return b\n"
    assert [m.line(source) for m in mutations(source) if m.operator == "statement removed"] == [3, 4]


def test_operators_keep_attribute_assignments_of_a_constructor():
    source = "class C:\n    def __init__(self, a):\n        self.a = a\n    def f(self):\n        self.a = g()\n"
    assert [m.line(source) for m in mutations(source)] == [5]


@pytest.mark.parametrize(
    "source",
    [
        '"""Text of 1 + 1."""',
        "x: Literal[1, 2]",
        "def f(a: int | None) -> Annotated[int, 3]: ...",
        "Pair = A | None",
        "logger.info(1 + 1)",
        'x = f"{1 + 1}"',
        "assert a < 1",
        "@dataclass(frozen=True)\nclass C: ...",
        "zip(a, b, strict=True)[x]",
        "if TYPE_CHECKING:\n    x = 1",
        "if a:  # pragma: cuda\n    x = 1",
        "def f(a=1):  # pragma: mps\n    return a + 1",
        "x = 1  # pragma: cuda",
    ],
)
def test_operators_skip_docstrings_annotations_and_logging(source):
    assert afters(source) == []


def test_operators_remove_a_raise_but_do_not_change_its_message():
    assert afters("raise E(1 + 1)") == ["pass"]


def test_operators_change_the_else_of_a_device_branch():
    assert afters("if a:  # pragma: cuda\n    x = 1\nelse:\n    x = 2") == ["x = 3"]


def test_operators_change_bounds_in_an_annotation():
    source = "class C:\n    x: Annotated[int, Field(ge=1)] = 2\n"
    assert afters(source) == [
        "x: Annotated[int, Field()] = 2",
        "x: Annotated[int, Field(ge=2)] = 2",
        "x: Annotated[int, Field(ge=1)] = 3",
    ]


def test_mutation_names_the_lines_of_its_statement_and_whether_it_runs_at_import():
    source = "x = 1\ndef f(a,\n      b=2):\n    return g(a,\n             3)\n"
    places = [(m.line(source), m.statement, m.at_import) for m in mutations(source) if m.operator == "constant"]
    assert places == [(1, range(1, 2), True), (3, range(2, 4), True), (5, range(4, 6), False)]


def test_mutations_of_every_module_are_valid_programs():
    invalid: list[str] = []
    for number, path in enumerate(sorted(PACKAGE.rglob("*.py"))):
        source = path.read_text(encoding="utf-8")
        invalid += [
            f"{path}: {m.after(source)}" for m in mutations(source)[number % 70 :: 70] if not m.is_valid(source)
        ]
    assert not invalid


@pytest.mark.parametrize(
    ("operator", "results"),
    [
        ("comparison", {1}),
        ("arithmetic", {-5}),
        ("condition negated", {6}),
        ("result dropped", {None}),
        ("statement removed", {0}),
        ("constant", {6}),
    ],
)
def test_mutations_of_a_function_change_its_result(operator, results):
    source = (
        "def total(values, most):\n"
        "    sum = 0\n"
        "    for value in values:\n"
        "        if value <= most:\n"
        "            sum += value\n"
        "    return sum\n"
    )

    def result(text: str) -> int:
        names: dict = {}
        exec(text, names)
        return names["total"]([1, 2, 3, 4, 6, -5], 4)

    assert result(source) == 5
    assert {result(m.apply(source)) for m in mutations(source) if m.operator == operator} == results


def test_lines_of_assigns_each_mutation_to_its_first_line():
    assert {line: len(changes) for line, changes in lines_of("x = 1\n\ny = a < 2\n").items()} == {1: 1, 3: 2}
