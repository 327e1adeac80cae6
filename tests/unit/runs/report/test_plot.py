import math

import pytest

from candlewick.runs.report.plot import plot


def rows(text: str) -> list[str]:
    return [line.split("|", 1)[1] for line in text.splitlines() if "|" in line]


def test_a_line_falls_from_the_upper_left_to_the_lower_right():
    assert plot({"a": [(0, 4), (3, 1)]}, width=16, height=4, x_label="step", y_label="loss").splitlines() == [
        "      loss",
        "         4 |*",
        "         3 | *",
        "         2 |  *",
        "         1 |   *",
        "           +----",
        "            0  3",
        "            step",
    ]


def test_several_curves_have_marks_a_legend_and_a_sign_where_they_meet():
    text = plot({"a": [(0, 0), (2, 2)], "b": [(0, 2), (2, 0)]}, width=15, height=3)
    assert rows(text) == ["* +"[::-1], " #", "* +"]
    assert text.splitlines()[-1].strip() == "* a   + b   # both"


def test_the_legend_has_the_sign_of_several_only_where_they_meet():
    apart = {"a": [(0, 0), (2, 0)], "b": [(0, 2), (2, 2)]}
    assert "#" not in plot(apart, width=15, height=3)
    assert plot({**apart, "c": [(0, 2), (2, 2)]}, width=15, height=3).endswith("* a   + b   o c   # several")


def test_a_curve_is_drawn_only_where_it_has_points():
    assert rows(plot({"a": [(0, 1), (8, 1)], "b": [(4, 0), (5, 0)]}, width=21, height=2)) == [
        "*********",
        "    ++",
    ]


def test_points_may_come_in_any_order_and_those_not_finite_are_left_out():
    points = [(2.0, 1.0), (0.0, 3.0), (1.0, math.nan), (math.inf, 1.0)]
    assert plot({"a": points}) == plot({"a": [(0.0, 3.0), (2.0, 1.0)]})


@pytest.mark.parametrize("points", [[], [(0.0, math.nan)]])
def test_without_points_it_says_so(points):
    assert plot({"a": points}, y_label="loss") == "loss: nothing to plot"


def test_one_point_and_a_flat_line_have_their_place():
    assert rows(plot({"a": [(7, 7)]}, width=15, height=2))[1].startswith("*")
    assert rows(plot({"a": [(0, 7), (1, 7)], "b": []}, width=15, height=2)) == ["", "***"]


def test_it_is_no_wider_and_no_higher_than_asked():
    text = plot({"a": [(step, 1e6 / (1 + step)) for step in range(100_000)]}, width=60, height=10)
    assert max(map(len, text.splitlines())) <= 60
    assert len(rows(text)) == 10
    assert "1,000,000 |*" in text
