import math

import pytest

from candlewick.runs.report.plot import plot


def rows(text: str) -> list[str]:
    return [line.split("|", 1)[1] for line in text.splitlines() if "|" in line]


def test_plot_draws_a_falling_line():
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


def test_plot_of_two_curves_has_marks_a_legend_and_a_sign_for_both():
    text = plot({"a": [(0, 0), (2, 2)], "b": [(0, 2), (2, 0)]}, width=15, height=3)
    assert rows(text) == ["* +"[::-1], " #", "* +"]
    assert text.splitlines()[-1].strip() == "* a   + b   # both"


def test_plot_legend_shows_the_common_sign_only_if_curves_meet():
    apart = {"a": [(0, 0), (2, 0)], "b": [(0, 2), (2, 2)]}
    assert "#" not in plot(apart, width=15, height=3)
    assert plot({**apart, "c": [(0, 2), (2, 2)]}, width=15, height=3).endswith("* a   + b   o c   # several")


def test_plot_draws_a_curve_only_where_it_has_points():
    assert rows(plot({"a": [(0, 1), (8, 1)], "b": [(4, 0), (5, 0)]}, width=21, height=2)) == [
        "*********",
        "    ++",
    ]


def test_plot_sorts_points_and_skips_non_finite_ones():
    points = [(2.0, 1.0), (0.0, 3.0), (1.0, math.nan), (math.inf, 1.0)]
    assert plot({"a": points}) == plot({"a": [(0.0, 3.0), (2.0, 1.0)]})


@pytest.mark.parametrize("points", [[], [(0.0, math.nan)]])
def test_plot_without_points_says_nothing_to_plot(points):
    assert plot({"a": points}, y_label="loss") == "loss: nothing to plot"


def test_plot_draws_a_single_point_and_a_flat_line():
    assert rows(plot({"a": [(7, 7)]}, width=15, height=2))[1].startswith("*")
    assert rows(plot({"a": [(0, 7), (1, 7)], "b": []}, width=15, height=2)) == ["", "***"]


def test_plot_keeps_its_width_and_height():
    text = plot({"a": [(step, 1e6 / (1 + step)) for step in range(100_000)]}, width=60, height=10)
    assert max(map(len, text.splitlines())) <= 60
    assert len(rows(text)) == 10
    assert "1,000,000 |*" in text
