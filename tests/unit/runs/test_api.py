"""The Python API does what the verbs do: the same texts, figures and folders."""

import importlib
import inspect
import json
import re
import subprocess
import sys
import threading
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_type_hints

import pytest
from rich.console import Console

import candlewick
from candlewick.config.plain_settings import PLAIN
from candlewick.config.run import SampleConfig
from candlewick.errors import CheckpointError, ConfigError, DataError, TokenizerError
from candlewick.runs import api
from candlewick.runs.evaluate import DataConfig, evaluate_checkpoint
from candlewick.runs.generate import TextGenerator
from candlewick.terminal import error_console

TINY: dict[str, Any] = {
    "runtime.device": "cpu",
    "runtime.logging.enable_stdout": False,
    "runtime.evaluation.every_n_steps": None,
    "runtime.sample": None,
    "data.num_workers": 1,
}
UNKNOWN: Any = {"step": 1}
SMALL: Any = {"context": 32, "hidden": 32, "layers": 1, "vocab_size": 300, "batch": 4}


@pytest.fixture(scope="session")
def model(trained):
    return candlewick.load(trained)


def test_public_names_are_all_and_import_nothing_heavy():
    code = """
import sys, candlewick
assert dir(candlewick) == sorted(candlewick.__all__), dir(candlewick)
candlewick.CandlewickError
assert not {"torch", "numpy", "pydantic"} & set(sys.modules)
for name in candlewick.__all__:
    assert getattr(candlewick, name) is not None
try:
    candlewick.nothing
except AttributeError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "module 'candlewick' has no attribute 'nothing'\n"
    assert candlewick.load is api.load


def test_train_is_a_function_and_a_package(tmp_path):
    plan = importlib.import_module("candlewick.train.plan")
    assert vars(candlewick.train)["plan"] is plan
    assert inspect.signature(candlewick.train) == inspect.signature(api.train)
    with pytest.raises(ConfigError, match="did you mean steps"):
        candlewick.train("x", tmp_path, **UNKNOWN)


def test_typed_settings_are_those_of_the_table():
    assert get_type_hints(api.Settings).keys() == PLAIN.keys()
    assert get_type_hints(api.Sampling).keys() == SampleConfig.model_fields.keys() - {"prompts"}
    assert (Path(candlewick.__file__).parent / "py.typed").is_file()


@pytest.mark.parametrize("kind", [str, Path])
def test_model_is_loaded_from_a_run_and_from_a_checkpoint(trained, model, kind):
    again = candlewick.load(kind(model.path))
    assert again.path == model.path == candlewick.load(kind(trained)).path
    assert again.config.model == model.config.model
    assert again.tokenizer.decode(again.tokenizer.encode("The man")) == "The man"
    assert repr(model) == f"<candlewick.Model {model.path}: 30,944 parameters, context 32>"


def test_generated_text_is_that_of_the_command_line(trained, model):
    generator = TextGenerator.load(trained, "cpu")
    config = generator.sampling({"max_new_tokens": 8, "temperature": 0.5})
    expected = "".join(generator.stream("The man", config, 3, is_chat=False))
    given: Any = {"seed": 3, "max_new_tokens": 8, "temperature": 0.5}
    assert model.generate("The man", **given) == expected
    pieces = model.generate("The man", stream=True, **given)
    assert "".join(pieces) == expected
    assert iter(pieces) is pieces


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"temprature": 1}, "there is no setting 'temprature' of sampling .fix: did you mean temperature"),
        ({"prompts": ()}, "there is no setting 'prompts'"),
        ({"temperature": -1}, "temperature: Input should be greater"),
        ({"max_new_tokens": 0}, "max_new_tokens"),
    ],
)
def test_wrong_settings_of_sampling_are_refused(model, settings, problem):
    with pytest.raises(ConfigError, match=problem):
        model.generate("The", **settings)


def test_chat_answers_a_message_and_a_conversation(chatting, model):
    chat = candlewick.load(chatting)
    greedy: Any = {"temperature": 0, "max_new_tokens": 4}
    answer = chat.chat("a", **greedy)
    turns = [{"role": "user", "content": "a"}]
    assert answer == chat.chat(turns, **greedy) == "".join(chat.chat(turns, stream=True, **greedy))
    more = [*turns, {"role": "assistant", "content": answer}, {"role": "user", "content": "b"}]
    assert chat.chat(more, **greedy) == candlewick.load(chatting).chat(more, **greedy)
    with pytest.raises(TokenizerError, match="no tokens for chats"):
        model.chat("a")
    with pytest.raises(ConfigError, match="no message to answer"):
        chat.chat([])


def test_evaluation_is_that_of_the_command_line(trained, model, text_dir, tmp_path):
    found, expected = model.evaluate(), evaluate_checkpoint(trained, DataConfig())
    assert asdict(found) == {name.removeprefix("eval/"): value for name, value in expected.items()}
    text = "A text, é, that no file holds.\nAnd a line."
    (tmp_path / "a.txt").write_text(text, "utf-8")
    whole = model.evaluate(text)
    assert whole == model.evaluate(tmp_path / "a.txt") == model.evaluate([str(tmp_path / "a.txt")])
    assert whole.tokens == len(model.tokenizer.encode(text)) + 1
    assert model.evaluate(str(text_dir), max_tokens=64).tokens == 64
    for missing in ("none.txt", "no/such", "stdlib://x"):
        with pytest.raises(DataError, match=r"none\.txt|no/such|stdlib"):
            model.evaluate(missing)


def test_evaluation_of_text_does_not_read_it_as_the_run_reads_its_own(chatting, model):
    assert model.evaluate("one\ntwo words").tokens == len(model.tokenizer.encode("one\ntwo words")) + 1
    assert candlewick.load(chatting).evaluate("words of it").loss > 0


@pytest.mark.parametrize("kind", [str, Path])
def test_training_makes_a_run_that_goes_on_with_a_later_end(text_dir, tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    texts = kind(text_dir / "00.txt"), kind(text_dir / "01.txt")
    run = kind("runs/x")
    first = candlewick.train(texts, run, steps=2, overrides=TINY, **SMALL)
    assert first.path.name == "step_000000002"
    assert first.metrics["bits_per_byte"] == pytest.approx(first.evaluate().bits_per_byte, rel=1e-9)
    assert (first.config.model.hidden_size, first.config.model.num_attention_heads) == (32, 2)
    written = [path.stat().st_mtime_ns for path in sorted(first.path.iterdir())]
    again = candlewick.train(texts, run, steps=2, overrides=TINY, **SMALL)
    assert [path.stat().st_mtime_ns for path in sorted(again.path.iterdir())] == written
    assert again.metrics == first.metrics
    later = candlewick.train(texts, run, steps=3, overrides=TINY, **SMALL)
    assert later.path.name == "step_000000003"


def test_training_without_an_end_takes_a_minute_unless_the_config_has_one(tmp_path, monkeypatch):
    configs = []

    def note(config, run_dir, notify):
        configs.append(config)
        raise KeyboardInterrupt

    monkeypatch.setattr(api, "orchestrate", note)
    given: list[Any] = [{}, {"seconds": None, "lr": 0.1}, {"overrides": {"scheduler.total_steps": 7}}]
    for settings in [*given, {"config": "local"}, {"epochs": 2}]:
        with pytest.raises(KeyboardInterrupt):
            candlewick.train("x", tmp_path, **settings)
    ends = [
        {n: v for n, v in config.scheduler.model_dump().items() if n.startswith("total") and v}
        for config in configs
    ]
    assert ends == [
        {"total_seconds": 60},
        {"total_seconds": 60},
        {"total_steps": 7},
        {"total_steps": 200},
        {"total_epochs": 2},
    ]
    assert configs[0].data.train_shards == (str(Path("x").absolute()),)


@pytest.mark.parametrize(
    ("call", "kind", "problem"),
    [
        (lambda folder: candlewick.train(folder / "none", folder / "run"), DataError, "none does not exist"),
        (lambda folder: candlewick.train("x", folder, steps=1, seconds=1), ConfigError, "2 ends of a run"),
        (lambda folder: candlewick.train("x", folder, **UNKNOWN), ConfigError, "there is no setting 'step'"),
        (lambda folder: candlewick.train("x", folder, overrides={"model.layers": 1}), ConfigError, "model.layers"),
        (
            lambda folder: candlewick.train("x", folder, config="demos"),
            ConfigError,
            "cannot read the configuration demos",
        ),
        (lambda folder: candlewick.load(folder), CheckpointError, "holds no finished checkpoint"),
        (lambda folder: candlewick.load("hf://x"), DataError, "names nothing on the Hub"),
        (lambda folder: candlewick.prepare("x", folder / "t", folder), CheckpointError, "holds no finished"),
    ],
)
def test_mistakes_are_told_in_one_line_with_the_fix(tmp_path, call, kind, problem):
    with pytest.raises(kind, match=problem) as error:
        call(tmp_path)
    assert isinstance(error.value, candlewick.CandlewickError)
    assert re.fullmatch(r".+ \(fix: .+\)", str(error.value))


def test_text_is_prepared_once_with_a_tokenizer_of_its_own_or_another(text_dir, trained, model, tmp_path):
    own = candlewick.prepare(
        text_dir / "00.txt", tmp_path / "own", vocab_size=280, overrides={"data.num_workers": 1}
    )
    assert (own.path, own.reused) == (tmp_path / "own", False)
    assert own.train_tokens > own.validation_tokens > 0
    again = candlewick.prepare(
        text_dir / "00.txt", tmp_path / "own", vocab_size=280, overrides={"data.num_workers": 1}
    )
    assert (again.reused, again.id) == (True, own.id)
    of_run = candlewick.prepare([text_dir / "00.txt"], tmp_path / "run", trained)
    of_folder = candlewick.prepare(text_dir / "00.txt", str(tmp_path / "folder"), str(model.path))
    assert of_run.id == of_folder.id != own.id
    with pytest.raises(ConfigError, match="a tokenizer that is given has its own vocab_size"):
        candlewick.prepare(text_dir, tmp_path / "both", trained, vocab_size=300)
    tokenizer = json.loads((tmp_path / "run" / "tokenizer" / "tokenizer.json").read_text())
    assert tokenizer == json.loads(model.tokenizer.json_bytes)


def test_training_works_in_a_thread(text_dir, tmp_path):
    made = []

    def work():
        made.append(candlewick.train(text_dir / "00.txt", tmp_path / "run", steps=1, overrides=TINY, **SMALL))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert made[0].metrics["loss"] > 0


def test_progress_in_a_notebook_is_plain_lines(monkeypatch, capsys):
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    assert Console().is_jupyter
    error_console().print("step 1")
    assert capsys.readouterr().err == "step 1\n"
