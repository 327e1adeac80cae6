import json
import logging
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import huggingface_hub
import pytest
import yaml

from candlewick.artifacts.manifest import json_sha256, read_manifest
from candlewick.checkpoint.layout import list_checkpoints, verify_checkpoint
from candlewick.runs import card as cards
from candlewick.runs.card import CARD, card, escaped, front_matter, sparkline, write_cards
from candlewick.runs.history import RECORD, RunHistory, RunRecord
from candlewick.runs.train import run_training

HOSTILE = "a|b`c\n# <script>alert(1)</script>[x](javascript:1)~~*_$$\x1b[31m\u202e"


@pytest.fixture
def history(trained):
    return RunHistory.read(trained)


@pytest.fixture
def run(tiny, tmp_path):
    """Train a run of 6 updates with a checkpoint at 5; return its folder."""

    def train(**sections):
        config = tiny(scheduler={"total_steps": 6, "warmup_steps": 1}, **sections)
        run_training(config, tmp_path / "run", resume=False)
        return tmp_path / "run"

    return train


def test_run_and_each_checkpoint_have_a_card_that_the_hub_library_loads(trained):
    folders = [trained, *list_checkpoints(trained / "checkpoints")]
    assert len(folders) > 2
    for folder in folders:
        data: Any = huggingface_hub.ModelCard.load(folder / CARD).data
        assert (data.library_name, data.pipeline_tag, data.tags) == (
            "transformers",
            "text-generation",
            ["candlewick"],
        )


def test_metadata_comes_back_from_the_hub_library_as_it_was(history):
    text = front_matter(history, is_portable=True)
    data: Any = huggingface_hub.ModelCard(f"---\n{text}---\n").data
    assert data.to_dict() == yaml.safe_load(text)
    assert yaml.safe_load(data.to_yaml()) == yaml.safe_load(text)
    values = {result.metric_type: result.metric_value for result in data.eval_results or ()}
    assert values["bits_per_byte"] == history.figure("final/bits_per_byte").last
    assert data.license is None


def test_card_passes_the_validation_of_an_endpoint(trained, monkeypatch):
    asked = []

    class Endpoint(BaseHTTPRequestHandler):
        def do_POST(self):
            asked.append((self.path, json.loads(self.rfile.read(int(self.headers["Content-Length"])))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Endpoint)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        url = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setattr("huggingface_hub.repocard.constants.ENDPOINT", url, raising=False)
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", url)
        huggingface_hub.ModelCard.load(trained / CARD).validate()
    finally:
        server.shutdown()
        server.server_close()
    ((path, body),) = asked
    assert path.startswith("/api/validate-yaml")
    assert body["repoType"] == "model"
    sent, here = (text.split("---\n", 2)[1:] for text in (body["content"], (trained / CARD).read_text()))
    assert (yaml.safe_load(sent[0]), sent[1]) == (yaml.safe_load(here[0]), here[1])


def test_card_tells_text_size_recipe_curve_samples_figures_and_use(trained, history):
    text = (trained / CARD).read_text()
    assert f"{history.record.parameters:,} parameters" in text
    (name, size, sha256) = history.record.text["tokens"].files["train"].files[0]
    assert f"| {escaped(name)} | {size:,} | `{sha256[:16]}` |" in text
    for part in ("12 of 12", "optimizer", "Training loss, step 1 to 12: `", "After step 4:", "After step 12:"):
        assert part in text
    assert f"{history.figure('final/bits_per_byte').last:.4f}" in text
    assert "folder = 'checkpoints/step_000000012'" in text
    assert "candlewick generate checkpoints/step_000000012" in text
    assert "folder = '.'" in (trained / "checkpoints" / "step_000000012" / CARD).read_text()


def test_card_names_no_place_of_this_machine(trained, history, text_dir, cache):
    text = (trained / CARD).read_text()
    assert text_dir.name in text
    assert str(text_dir) not in text
    assert str(cache) not in text
    assert str(trained.parent) not in text


def test_code_of_the_card_loads_the_model(trained, monkeypatch, capsys):
    monkeypatch.chdir(trained)
    code = (trained / CARD).read_text().partition("```python\n")[2].partition("```")[0]
    exec(compile(code, CARD, "exec"), {})
    assert capsys.readouterr().out.startswith("Once")


def test_card_of_a_model_that_transformers_lacks_says_so(run):
    folder = run(model={"rope_mode": "off"}, runtime={"device": "cpu", "sample": None})
    text = (folder / CARD).read_text()
    assert 'library_name: "candlewick"' in text
    assert "only Candlewick reads it" in text
    assert "None were written." in text


def test_card_of_a_checkpoint_knows_what_was_known_then(trained):
    early = (trained / "checkpoints" / "step_000000005" / CARD).read_text()
    assert "5 of 12" in early
    assert "After step 12" not in early


def test_cards_change_no_checkpoint(run, monkeypatch):
    folder = run() / "checkpoints" / "step_000000006"
    assert CARD not in {entry.name for entry in read_manifest(folder).files}
    (folder / CARD).unlink()
    without = verify_checkpoint(folder).id
    (folder / CARD).write_text("another")
    assert verify_checkpoint(folder).id == without


@pytest.mark.parametrize("error", [OSError("full"), ValueError("x"), KeyError("y"), ZeroDivisionError("z")])
def test_card_that_cannot_be_written_is_a_warning(run, monkeypatch, caplog, error):
    def fail(*_):
        raise error

    monkeypatch.setattr(cards, "card", fail)
    with caplog.at_level(logging.WARNING, logger="candlewick"):
        folder = run()
    assert "README.md could not be written" in caplog.text
    assert list_checkpoints(folder / "checkpoints")[-1].name == "step_000000006"
    assert not (folder / CARD).exists()


def test_names_of_others_are_escaped(trained, tmp_path):
    history = RunHistory.read(trained)
    record = history.record.model_dump()
    record["text"] = {HOSTILE: {**record["text"]["tokens"], "sources": [HOSTILE, "hf://datasets/o/n@abc"]}}
    for side in record["text"][HOSTILE]["files"].values():
        side["files"] = [[HOSTILE, 1, HOSTILE]]
    assert history.checkpoint is not None
    record = RunRecord.model_validate(record)
    hostile = replace(history, record=record, samples={4: ["```\n# x"]})
    text = card(hostile, trained, history.checkpoint)
    data: Any = huggingface_hub.ModelCard(text).data
    assert data.datasets == ["o/n"]
    body = text.partition("\n---\n")[2]
    assert "<script" not in body.replace("\\<script", "")
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert "````\n```\n# x\n````" in body
    rows = [line for line in body.splitlines() if "alert" in line and line.startswith("|")]
    assert rows
    assert all(line.replace("\\|", "").count("|") in (4, 6) for line in rows)
    headings = [line for line in body.splitlines() if line.startswith("#")]
    assert [line.lstrip("# ") for line in headings if line != "# x"][1:] == [
        "Text", "Model and training", "Evaluation", "Samples", "Use", "Limits",
    ]  # fmt: skip


def test_damaged_record_and_state_leave_a_card(run):
    folder = run()
    newest = list_checkpoints(folder / "checkpoints")[-1]
    (folder / RECORD).write_text(json.dumps({"text": 3, "sha256": json_sha256({})}))
    (newest / "training" / "state.json").write_text("[]")
    (folder / CARD).unlink()
    write_cards(folder, newest)
    assert "text that its run does not name" in (folder / CARD).read_text()


def test_base_model_is_that_of_the_hub(history):
    config = history.config.replaced(runtime={"checkpoint": {"init_from": "hf://owner/name@abc"}})
    other = replace(history, config=config)
    assert yaml.safe_load(front_matter(other, is_portable=True))["base_model"] == "owner/name"
    assert other.checkpoint is not None
    text = card(other, other.folder, other.checkpoint)
    assert "from the weights of hf\\://owner/name\\@abc on." in text
    assert "tokens per parameter" not in text


def test_sparkline_goes_from_the_lowest_to_the_highest_bar():
    assert sparkline([0, 1, 2, 3, 4, 5, 6, 7]) == "▁▂▃▄▅▆▇█"
    assert sparkline([1.0, 1.0]) == "▁▁"
