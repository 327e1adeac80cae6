import base64
import hashlib
import json
import logging
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from candlewick.errors import DataError
from candlewick.runs.history import Curve, RunHistory, RunRecord
from candlewick.runs.report import page as pages
from candlewick.runs.report.page import MAX_BYTES, page, write_report, write_report_of_run

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>'\"&\x1b[31m\u202e<!--"
VOID = {"meta", "br", "input", "path"}


class Page(HTMLParser):
    """Collects elements, the text in them, and checks that all are closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.setdefault(self.open[-1] if self.open else "", []).append(data)

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def points(self):
        return json.loads(self.texts["script"][0])


@pytest.fixture
def history(trained):
    return RunHistory.read(trained)


@pytest.fixture
def hostile(history):
    """A run whose names, settings, samples and text are a stranger's."""
    record = history.record.model_dump()
    tokens = record["text"]["tokens"]
    tokens["files"] = {"train": {"num_files": 5000, "bytes": 10**9, "files": [(HOSTILE * 20, 1, HOSTILE)] * 5000}}
    start = {**dict.fromkeys(("command", "tool", "time", "device"), HOSTILE * 50), "step": HOSTILE}
    record |= {"text": {HOSTILE: {**tokens, "sources": [HOSTILE] * 50}}, "starts": [start] * 100, "run": HOSTILE}
    config = history.config.replaced(runtime={"sample": {"prompts": (HOSTILE * 1000,)}})
    steps = np.arange(1.0, 100_001)
    values = np.random.default_rng(0).normal(size=len(steps))
    figures = {name: Curve(steps, values) for name in history.figures}
    return replace(
        history,
        folder=history.folder.parent / "a<script>b",
        record=RunRecord.model_validate(record),
        config=config,
        figures=figures,
        samples={step: [HOSTILE * 1000] * 30 for step in range(1, 200)},
    )


def test_report_of_a_run_has_figures_curves_samples_settings_and_origins(trained, history, tmp_path):
    write_report([trained], tmp_path / "r.html")
    text = (tmp_path / "r.html").read_text()
    found = Page(text)
    assert [*found.texts["h1"], *found.texts["h2"]] == ["run", "Curves", "Samples", "Settings", "Origins"]
    words = " ".join(word for words in found.texts.values() for word in words)
    assert f"{history.figure('final/bits_per_byte').last:.3f}" in found.texts["dd"]
    assert f"{history.record.parameters:,}" in found.texts["dd"]
    assert "12 of 12" in found.texts["dd"]
    assert history.samples[12][0].strip() in "".join(found.texts["pre"])
    assert {"model.hidden_size", "tokenizer.vocab_size", "32"} <= set(found.texts["code"])
    assert "runtime.seed" not in found.texts["code"]
    (name, _, sha256) = history.record.text["tokens"].files["train"].files[0]
    assert name in words
    assert sha256[:16] in words
    assert history.record.text["tokens"].dataset[:16] in words
    assert [chart["series"][0]["label"] for chart in found.points] == [
        *("training", "bits per byte", "learning rate", "throughput", "memory", "gradient norm"),
    ]
    assert [series["label"] for series in found.points[0]["series"]] == ["training", "smoothed", "validation"]
    assert found.points[0]["series"][0]["step"] == list(range(1, 13))


def test_report_loads_nothing_and_its_policy_allows_its_own_script_only(trained, tmp_path):
    write_report([trained], tmp_path / "r.html")
    found = Page((tmp_path / "r.html").read_text())
    (policy,) = [meta["content"] or "" for meta in found.all("meta") if "http-equiv" in meta]
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy
    scripts = found.texts["script"]
    assert len(scripts) == len(found.all("script")) == 2
    for content in (scripts[1], found.texts["style"][0]):
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in policy
    for _, attributes in found.elements:
        assert not {"src", "href", "style", "action", "background"} & attributes.keys()
    assert "url(" not in found.texts["style"][0]
    assert "@import" not in found.texts["style"][0]
    assert "prefers-color-scheme: dark" in found.texts["style"][0]


def test_curves_keep_their_extremes(history):
    steps = np.arange(1.0, 50_001)
    values = np.sin(steps / 3000)
    values[31_337], values[777] = 9.0, -9.0
    figures = {**history.figures, "train/loss": Curve(steps, values)}
    (loss, *_) = Page(page([replace(history, figures=figures)])).points
    assert (min(loss["series"][0]["y"]), max(loss["series"][0]["y"])) == (-9, 9)
    assert len(loss["series"][0]["y"]) <= 800


@pytest.mark.parametrize("count", [1, 3, 20])
def test_hostile_text_is_text_and_the_page_stays_small(hostile, monkeypatch, tmp_path, count):
    monkeypatch.setattr(RunHistory, "read", lambda folder: replace(hostile, folder=folder / "a<script>b"))
    write_report([tmp_path / f"{number}" for number in range(count)], tmp_path / "r.html")
    content = (tmp_path / "r.html").read_bytes()
    assert len(content) <= MAX_BYTES
    found = Page(content.decode())
    assert not found.all("img")
    assert len(found.all("script")) == 2
    assert not any(name.startswith("on") for _, attributes in found.elements for name in attributes)
    assert "\x1b" not in content.decode()
    assert found.texts["h1"] == [", ".join(["a<script>b"] * count)]
    assert len(found.points) == 6
    assert HOSTILE[:20] in "".join(found.texts["pre"])


def test_several_runs_lie_over_each_other_by_steps_and_by_tokens(trained, history, tmp_path):
    other = replace(
        history, folder=tmp_path / "other", config=history.config.replaced(optimizer={"learning_rate": 0.5})
    )
    found = Page(page([history, other]))
    assert found.texts["h1"] == ["run, other"]
    assert [series["label"] for series in found.points[0]["series"]] == [
        *("run", "run validation", "other", "other validation"),
    ]
    assert [series["color"] for series in found.points[1]["series"]] == ["0", "1"]
    assert found.points[0]["series"][0]["tokens"][-1] == history.figure("data/tokens").last
    assert {"by-step", "by-tokens"} <= {attributes.get("id") for attributes in found.all("input")}
    assert found.texts["span"].count("default") == 1
    assert "0.5" in found.texts["code"]


def test_run_without_rows_says_so(history):
    empty = replace(history, figures={}, samples={}, state={}, record=RunRecord(), checkpoint=None)
    found = Page(page([empty]))
    assert "No step is recorded yet." in found.texts["p"]
    assert "Samples" not in found.texts["h2"]


def test_many_samples_are_thinned_and_it_is_said(history):
    samples = {step: [f"text {step}"] for step in range(1, 41)}
    found = Page(page([replace(history, samples=samples)]))
    assert "8 of 40 evaluations; metrics.jsonl has all." in found.texts["p"]
    assert found.texts["pre"][0] == "text 1"
    assert found.texts["pre"][-1] == "text 40"


def test_report_at_the_end_of_a_run_that_fails_is_a_warning(tmp_path, monkeypatch, caplog):
    def fail(*_):
        raise OSError("full")

    monkeypatch.setattr(pages, "write_report", fail)
    with caplog.at_level(logging.WARNING, logger="candlewick"):
        assert write_report_of_run(tmp_path) is None
    assert "the report could not be written: full" in caplog.text


def test_report_of_a_folder_that_is_no_run_is_an_error(trained_copy, tmp_path):
    (trained_copy / "metrics.jsonl").unlink()
    with pytest.raises(DataError, match="metrics.jsonl is missing"):
        write_report([trained_copy], tmp_path / "r.html")
    assert not (tmp_path / "r.html").exists()
