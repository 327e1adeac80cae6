"""The display: live on a terminal, plain lines elsewhere, without control characters of a model's text."""

import io

import pytest
from rich.console import Console

from candlewick.train.monitor import display as module
from candlewick.train.monitor.display import Display, duration, figures, printable

ROW = {
    "train/loss": 2.40313,
    "optim/learning_rate": 0.02,
    "perf/tokens_per_second": 31402.4,
    "perf/mfu_strict": 0.481,
    "perf/data_wait_share": 0.001,
    "perf/memory_bytes": 4.1e8,
    "perf/eta_seconds": 124.0,
}


def console(*, terminal: bool, width: int = 100) -> tuple[Console, io.StringIO]:
    out = io.StringIO()
    return Console(file=out, force_terminal=terminal, width=width, color_system=None), out


def test_plain_line_holds_every_figure_with_its_unit():
    plain, out = console(terminal=False, width=40)
    display = Display(5000, True, plain)
    display.start()
    display.update(ROW, step=1240, total_steps=5000)
    display.stop()
    assert out.getvalue() == (
        "step 1,240/5,000  loss 2.4031  lr 2.0e-02     31,402 tok/s  MFU  48.1 %  waiting for data 0.1 %"
        "  0.41 GB  2:04 left\n"
    )


def test_plain_lines_are_limited_in_frequency_and_include_the_last(
    monkeypatch: pytest.MonkeyPatch,
):
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    plain, out = console(terminal=False)
    display = Display(None, True, plain)
    display.start()
    for step in range(1, 13):
        now[0] = float(step)
        display.update({"train/loss": 1.0}, step=step, total_steps=None)
    display.stop()
    assert [line.split()[1] for line in out.getvalue().splitlines()] == ["1", "6", "11", "12"]


def test_display_on_a_terminal_is_live_with_messages_above():
    live, out = console(terminal=True)
    display = Display(5000, True, live)
    display.start()
    display.update(ROW, step=1240, total_steps=5000)
    display.message("saved [bold]here[/bold]")
    display.stop()
    text = out.getvalue()
    assert "saved [bold]here[/bold]" in text, "markup is text"
    assert "step 1,240/5,000" in text
    assert "25%" in text
    assert "2:04 left" in text
    assert "MFU 48.1 %" in text


def test_live_display_without_total_steps_pulses():
    live, out = console(terminal=True)
    display = Display(None, True, live)
    display.start()
    display.update({"train/loss": 1.5, "train/skipped_steps": 2.0}, step=7, total_steps=None)
    display.message("x")
    display.stop()
    assert "step 7 " in out.getvalue()
    assert "2 not finite, skipped" in out.getvalue()


@pytest.mark.parametrize("terminal", [True, False])
def test_a_disabled_display_is_silent(terminal: bool):
    console_, out = console(terminal=terminal)
    display = Display(10, False, console_)
    display.start()
    display.update(ROW, step=1, total_steps=10)
    display.message("text")
    display.stop()
    assert out.getvalue() == ""


def test_display_writes_to_standard_error(capsys: pytest.CaptureFixture[str]):
    display = Display(10, True)
    display.message("hello")
    display.stop()
    assert capsys.readouterr() == ("", "hello\n")


def test_display_escapes_terminal_control_characters_of_messages():
    plain, out = console(terminal=False)
    Display(None, True, plain).message("a\x1b[2Jb\rc\x7f\x9b\td\ne")
    assert out.getvalue() == "a␛[2Jb␍c␡\ufffd      d\ne\n"
    assert printable("é漢 \n\t~") == "é漢 \n\t~"


def test_figures_shows_only_figures_of_the_row():
    assert figures({}) == []
    assert figures({"train/loss": 1.0, "train/skipped_steps": 0.0}) == ["loss 1.0000"]


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (59.6, "1:00"), (3599, "59:59"), (36061, "10:01:01")])
def test_duration_is_written_in_minutes_or_hours(seconds: float, text: str):
    assert duration(seconds) == text


def frames(text: str) -> list[str]:
    """What a terminal shows one after another: each part begins with the removal of the one before."""
    return [part.split("\x1b[1A")[-1] for part in text.split("\x1b[2K")]


def test_the_live_part_is_one_bar_and_one_line_of_figures_and_leaves_the_figures_only(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    live, out = console(terminal=True, width=110)
    display = Display(5000, True, live)
    now[0] = 100.0
    display.start()
    display.message("begun")
    assert "step 0/5,000" in out.getvalue()
    display.update(ROW, step=1240, total_steps=5000)
    now[0] = 141.0
    display.message("saved")
    display.stop()
    text = out.getvalue()
    bar = "━" * 9 + "╸"
    assert f"step 1,240/5,000  {bar}{' ' * 30}   25%  0:41 spent  2:04 left" in text
    shown = "loss 2.4031   lr 2.0e-02   31,402 tok/s   MFU 48.1 %   waiting for data 0.1 %   0.41 GB"
    assert shown in text
    last = frames(text)[-1]
    assert "loss 2.4031  lr 2.0e-02" in last
    assert bar not in last
    assert text.count("loss 2.4031  lr 2.0e-02") == 1


def test_figures_that_are_too_long_for_the_terminal_are_cut():
    live, out = console(terminal=True, width=40)
    display = Display(5000, True, live)
    display.start()
    display.update(ROW, step=1240, total_steps=5000)
    display.stop()
    assert "loss 2.4031   lr 2.0e-02   31,402 tok/s…" in out.getvalue()


def test_numbers_have_no_color_of_their_own_and_live_figures_are_dim(capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "200")
    display = Display(5000, True)
    display.start()
    display.update(ROW, step=1240, total_steps=5000)
    display.message("saved")
    display.stop()
    text = capsys.readouterr().err
    assert "\x1b[2mloss 2.4031" in text
    assert "step 1,240/5,000  loss 2.4031  lr 2.0e-02" in text


def test_steps_are_aligned_with_the_last_one_and_long_messages_stay_one_line():
    plain, out = console(terminal=False, width=40)
    display = Display(5000, True, plain)
    display.update({"train/loss": 1.0}, step=7, total_steps=5000)
    display.message("word " * 20)
    assert out.getvalue() == "step     7/5,000  loss 1.0000\n" + "word " * 20 + "\n"
    assert figures({"perf/tokens_per_second": 31402.4, "perf/mfu_strict": 0.0481}) == ["31,402 tok/s", "MFU 4.8 %"]


def test_figures_that_were_not_shown_come_before_a_message():
    plain, out = console(terminal=False)
    display = Display(None, True, plain)
    for step in (1, 2):
        display.update({"train/loss": 1.0}, step=step, total_steps=None)
    display.message("saved")
    display.message("again")
    assert out.getvalue() == "step 1  loss 1.0000\nstep 2  loss 1.0000\nsaved\nagain\n"
