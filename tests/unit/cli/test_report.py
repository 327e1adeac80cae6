import json
import shutil

import pytest


@pytest.fixture
def two(trained, tmp_path):
    folders = [tmp_path / name for name in ("one", "two")]
    for folder in folders:
        shutil.copytree(trained, folder, symlinks=True)
    return folders


def test_report_is_in_the_run_or_where_it_is_asked_for(trained_copy, tmp_path, run_candlewick):
    assert run_candlewick("report", trained_copy).out == f"report: {trained_copy}/report.html\n"
    page = (trained_copy / "report.html").read_text()
    run_candlewick("report", trained_copy, "--output", tmp_path / "x.html")
    assert (tmp_path / "x.html").read_text() == page


def test_report_of_several_runs_is_in_the_current_folder(two, tmp_path, run_candlewick, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run_candlewick("report", *two).out == "report: report.html\n"
    assert "<h1>one, two</h1>" in (tmp_path / "report.html").read_text()
    assert not (two[0] / "report.html").exists()


def test_report_makes_tensorboard_files(two, tmp_path, run_candlewick, monkeypatch):
    monkeypatch.chdir(tmp_path)
    out = run_candlewick("report", two[0], "--tensorboard", "--json").out
    assert json.loads(out) == {
        "report": str(two[0] / "report.html"),
        "tensorboard": [str(two[0] / "tensorboard")],
    }
    assert list((two[0] / "tensorboard").glob("events*"))
    assert "tensorboard --logdir board/two" in run_candlewick("report", *two, "--tensorboard", "board").out
    assert list((tmp_path / "board" / "one").glob("events*"))
    assert "has TensorBoard files" in run_candlewick("report", two[0], "--tensorboard", code=3).err


def test_report_says_how_to_get_tensorboard(trained_copy, run_candlewick, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torch.utils.tensorboard", None)
    said = run_candlewick("report", trained_copy, "--tensorboard", code=4).err
    assert "pip install 'candlewick[tensorboard]'" in said


def test_report_refuses_what_is_no_run_and_the_same_name_twice(trained_copy, tmp_path, run_candlewick):
    assert "config.yaml" in run_candlewick("report", tmp_path / "nowhere", code=2).err
    assert "the same name" in run_candlewick("report", trained_copy, trained_copy, code=2).err
