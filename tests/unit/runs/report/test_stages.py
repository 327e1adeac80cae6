import json

import pytest

from candlewick.runs.report.stages import Stage, format_stages, plot_losses, read_stages


def test_stages_have_the_figure_of_all_text_and_the_text_of_their_step(tmp_path):
    rows = [
        {"step": 1, "train/loss": 5.0, "perf/training_seconds": 0.5},
        {"step": 1, "eval/bits_per_byte": 3.0},
        {"step": 1, "sample/0": "one"},
        {"step": 2, "train/loss": 4.0, "perf/training_seconds": 2.5},
        {"step": 2, "eval/bits_per_byte": 2.0},
        {"step": 2, "sample/0": "two"},
        {"step": 2, "final/bits_per_byte": 2.25},
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert read_stages(tmp_path) == [Stage(1, 0.5, 3.0, "one"), Stage(2, 2.5, 2.25, "two")]
    assert "loss" in plot_losses(tmp_path, 40)
    assert max(map(len, plot_losses(tmp_path, 40).splitlines())) <= 40


@pytest.mark.parametrize("width", [40, 80, 100])
def test_table_of_stages_fits_its_width_and_breaks_no_word(width):
    words = "Once there was a hen who wanted a blue boat more than anything in the world".split()
    table = format_stages(
        [Stage(7, 3.2, 2.5, "\n".join([" ".join(words)] * 3)), Stage(1700, 81.0, 0.7, None)], width
    )
    lines = table.splitlines()
    assert max(map(len, lines)) <= width
    shown = table.split("0:03")[1].split("1,700")[0].split()[1:]
    assert shown[: len(words)] == words[: len(shown)]
    assert "1:21" in table
    assert "\x1b" not in format_stages([Stage(1, 1.0, 2.0, "\x1b[2J")], width)
