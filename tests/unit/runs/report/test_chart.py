import math
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from candlewick.runs.report.chart import Chart, Series, Style, short, ticks


def line(values, style: Style = "line", color="0", label="loss"):
    steps = np.arange(1.0, len(values) + 1)
    return Series(label, style, color, steps, steps * 100, np.array(values, float))


@given(st.floats(-1e9, 1e9), st.floats(0, 1e9), st.integers(2, 8))
def test_ticks_surround_the_values_at_equal_distances(low, span, about):
    found = ticks(low, low + span, about)
    distance = found[1] - found[0]
    assert 2 <= len(found) <= about + 3
    assert found[0] <= low + distance * 1e-6
    assert found[-1] >= low + span - distance * 1e-6
    assert np.allclose(np.diff(found), distance, rtol=1e-3)
    assert len(set(map(short, found))) == len(found)
    assert round(distance / 10 ** math.floor(math.log10(distance) + 1e-9), 4) in (1, 2, 2.5, 5)


def test_ticks_of_usual_ranges_are_round():
    assert ticks(0, 478, 5) == [0, 100, 200, 300, 400, 500]
    assert ticks(1.66, 1.84, 4) == pytest.approx([1.65, 1.7, 1.75, 1.8, 1.85])


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (20_000, "20k"), (2.5e6, "2.5M"), (3e9, "3B"), (0.015, "0.015"), (2e-5, "2e-05")]
)
def test_short_numbers(value, text):
    assert short(value) == text


def test_path_has_each_point_at_its_place():
    chart = Chart("Loss", "nats", [line([4.0, 2.0, 0.0])])
    for axis in ("step", "tokens"):
        assert chart.x_ticks(axis)[0] == 0
    by_step, by_tokens = re.findall(r'<path class="line color-0" d="([^"]*)"', chart.html())
    assert by_step == by_tokens == "M333.3 0.0L666.7 500.0L1000.0 1000.0"


def test_dots_and_a_single_point_are_drawn_as_lines_of_no_length():
    html = Chart("Loss", "", [line([1.0, 2.0], style="dots", color="ink"), line([3.0])]).html()
    dots, dot, *_ = re.findall(r'<path class="(?:dots|line) color-\w+" d="([^"]*)"', html)
    assert dots.count("h0") == 2
    assert dot.count("h0") == 1


def test_points_for_hovering_have_five_digits_and_names_are_escaped():
    chart = Chart("<b>", "&", [line([1.23456789, 2.0], label="<script>")], from_zero=True, legend=("line",))
    (series,) = chart.points()["series"]
    assert (series["step"], series["tokens"], series["y"]) == ([1, 2], [100, 200], [1.2346, 2.0])
    assert "<script>" not in chart.html()
    assert "&lt;script&gt;" in chart.html()
    assert "legend" not in Chart("a", "", [line([1.0])]).html()
