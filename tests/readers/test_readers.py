"""Pin files are exact, scripts compile and import nothing of ours, comparisons see one token; the log is whole."""

import ast
import json
import re
import sys
from pathlib import Path

import pytest
from tests.prepared import newest_checkpoint
from tests.readers import environments
from tests.readers.compare import compare
from tests.readers.prepare import greedy, score
from tests.readers.run import INSIDE, SCRIPTS, Report, compare_all, digest, read

from candlewick.checkpoint.load import load_for_inference
from candlewick.parallel.device import find_device

ROOT = Path(__file__).resolve().parents[2]
LOG = Path(__file__).with_name("log.txt")
CASE = {
    "prompts": [
        {"tokens": [5, 6, 7, 0], "margins": [1.0, 0.5, 2e-3, 1.0]},
        {"tokens": [8, 9, 4], "margins": [1.0, 1e-3, 1.0]},
    ],
    "text_ids": [1, 2],
    "losses": {"chat": {"ids": [3, 4], "loss": 1.9, "loss_of_all_rows": 2.0}},
    "eval": {"loss": 3.0, "tokens": 4},
}
RESULT = {
    "class": "Qwen3ForCausalLM",
    "tokens": [[5, 6, 7, 0], [8, 1, 2, 3]],
    "text_ids": [1, 2],
    "chat_ids": [3, 4],
    "trained_ids": {"chat": [3, 4]},
    "losses": {"chat": 2.0, "eval": 3.0},
    "changed_tensors": [9, 9],
}


def pins(name: str) -> list[str]:
    return (environments.PINS / f"{name}.txt").read_text().splitlines()


@pytest.mark.parametrize("name", environments.NAMES)
def test_pin_file_names_one_version_of_every_package(name):
    lines = pins(name)
    assert all(re.fullmatch(r"[A-Za-z0-9][\w.-]*==[\w.!+]+", line) for line in lines)
    packages = [re.sub(r"[-_.]+", "-", line.partition("==")[0]).lower() for line in lines]
    assert len(set(packages)) == len(packages)
    assert f"{name}." in "\n".join(lines).replace("==", "-")  # transformers-5.24 pins transformers==5.24.0
    ours = (ROOT / "constraints.txt").read_text().splitlines()
    torch = [line for line in lines if line.startswith("torch")]  # no torchvision, which wants another build
    assert torch == ([] if name.startswith("mlx") else [line for line in ours if line.startswith("torch==")])


def test_every_reader_has_a_script_that_compiles_and_imports_nothing_of_ours():
    assert {name.rpartition("-")[0] for name in environments.NAMES} == SCRIPTS.keys()
    assert {path.name for path in INSIDE.glob("*.py")} == set(SCRIPTS.values())
    for path in INSIDE.glob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        compile(tree, path.name, "exec")
        modules = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
        modules += [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
        assert not [name for name in modules if name.split(".")[0] in ("candlewick", "tests")]


def test_equal_results_have_no_problem():
    compared = compare(CASE, RESULT)
    assert (compared.problems, compared.num_equal, compared.num_compared) == ((), 5, 5)
    said = "Qwen3ForCausalLM, 5 of 5 greedy tokens equal, losses within 0e+00, a step changes 9 of 9 tensors"
    assert str(compared) == said


@pytest.mark.parametrize(
    ("key", "value", "problem"),
    [
        ("tokens", [[5, 6, 1, 0], [8]], "prompt 0: 2 of 4 tokens equal, 4 written"),
        ("tokens", [[5, 6, 7, 0, 2], [8]], "prompt 0: 4 of 4 tokens equal, 5 written"),  # it goes on after the end
        ("tokens", [[5, 6, 7], [8]], "prompt 0: 3 of 4 tokens equal, 3 written"),
        ("tokens", [[5, 6, 7, 0], []], "prompt 1: 0 of 1 tokens equal, 0 written"),
        ("tokens", [[5, 6, 7, 0]], "1 of 2 prompts continued"),
        ("text_ids", [1, 3], "text: other token ids"),
        ("chat_ids", [3], "chat: other token ids"),
        ("trained_ids", {"chat": [4, 3]}, "chat: other token ids"),
        ("losses", {"chat": 1.9, "eval": 3.0}, "chat: loss 1.9000000, ours 2.0000000"),
        ("losses", {"chat": 2.0, "eval": 3.0001}, "eval: loss 3.0001000, ours 3.0000000"),
        ("losses", {"chat": float("nan")}, "chat: loss nan, ours 2.0000000"),
        ("changed_tensors", [8, 9], "a step leaves tensors as they were, or not finite"),
    ],
)
def test_comparison_names_each_difference(key, value, problem):
    assert compare(CASE, {**RESULT, key: value}).problems == (problem,)


def test_model_that_a_reader_leaves_out_is_a_failure(capsys):
    report = Report()
    without_eval = {name: value for name, value in CASE.items() if name != "eval"}
    compare_all({"a": CASE, "b": without_eval}, {"a": RESULT}, report)
    assert not report.failed  # without figures of `candlewick eval` there is nothing to read for some
    compare_all({"a": CASE}, {}, report)
    assert report.failed
    assert "not read" in capsys.readouterr().out


def test_reader_that_fails_is_reported_with_its_output(tmp_path, capsys):
    report = Report()
    (tmp_path / "cases.json").write_text("no json")
    read("mlx-lm-0", Path(sys.executable), tmp_path, report)
    assert report.failed
    assert "Traceback" in capsys.readouterr().out


def test_digest_of_a_folder_sees_a_changed_byte_and_a_new_name(tmp_path):
    (tmp_path / "a").write_bytes(b"1")
    first = digest(tmp_path)
    (tmp_path / "a").write_bytes(b"2")
    second = digest(tmp_path)
    (tmp_path / "a").rename(tmp_path / "b")
    assert len({first, second, digest(tmp_path)}) == 3


def test_greedy_tokens_are_those_of_candlewick_generate(trained, run_candlewick):
    folder = newest_checkpoint(trained / "checkpoints")
    model, tokenizer = load_for_inference(folder, find_device("cpu"))
    found = greedy(model, tokenizer, [tokenizer.delimiter_id, *tokenizer.encode("The man")])
    words = ("The man", "--temperature", 0, "--json", "--logprobs", 2, "--max-new-tokens", 64, "--device", "cpu")
    printed = json.loads(run_candlewick("generate", folder, *words).out)["tokens"]
    assert found["tokens"] == [token["id"] for token in printed]
    margins = [token["top"][0]["logprob"] - token["top"][1]["logprob"] for token in printed]
    assert found["margins"] == pytest.approx(margins, abs=1e-5)


def test_loss_of_all_rows_counts_rows_without_a_token(trained):
    model, tokenizer = load_for_inference(newest_checkpoint(trained / "checkpoints"), find_device("cpu"))
    assert model.vocab_size > tokenizer.vocab_size
    found = score(model, tokenizer, [0, *tokenizer.encode("The man")])
    assert 0 < found["loss_of_all_rows"] - found["loss"] < 1


def test_environment_is_built_again_when_its_pins_change(tmp_path, monkeypatch):
    installed = []
    monkeypatch.setattr(environments, "PINS", tmp_path)
    monkeypatch.setattr(environments, "install", lambda python, *arguments: installed.append(arguments))
    monkeypatch.delenv("TORCH_INDEX_URL", raising=False)
    file, root = tmp_path / "reader.txt", tmp_path / "environments"
    file.write_text("six==1.17.0\n")
    for text in ("six==1.17.0\n", "six==1.17.0\n", "six==1.16.0\n"):
        file.write_text(text)
        python = environments.build(root, "reader")
        assert python.is_file()
    assert installed == [("-r", str(file))] * 2
    file.write_text("torch==1\n")
    monkeypatch.setenv("TORCH_INDEX_URL", "http://an.index")
    environments.build(root, "reader")
    assert installed[2:] == [("--index-url", "http://an.index", "torch==1"), ("-r", str(file))]


def test_environment_that_failed_to_install_is_not_taken_for_whole(tmp_path, monkeypatch):
    def fail(*_):
        raise SystemExit("error")

    monkeypatch.setattr(environments, "install", fail)
    for _ in range(2):
        with pytest.raises(SystemExit):
            environments.build(tmp_path, environments.NAMES[0])


def test_index_that_does_not_answer_is_no_network(monkeypatch):
    address = "http://127.0.0.1:9/simple"  # nothing listens there
    for name, value in {"INDEX_URL": address, "EXTRA_INDEX_URL": address, "RETRIES": "1", "TIMEOUT": "2"}.items():
        monkeypatch.setenv(f"PIP_{name}", value)
    with pytest.raises(environments.NoNetworkError):
        environments.install(Path(sys.executable), "candlewick-that-nobody-has==0")


def test_package_that_an_index_lacks_is_an_error(monkeypatch, tmp_path):
    for name in ("INDEX_URL", "EXTRA_INDEX_URL"):
        monkeypatch.setenv(f"PIP_{name}", tmp_path.as_uri())
    with pytest.raises(SystemExit, match=r"candlewick-that-nobody-has==0 cannot be installed"):
        environments.install(Path(sys.executable), "candlewick-that-nobody-has==0")


def test_log_has_every_reader_in_its_version_and_no_failure():
    log = LOG.read_text(encoding="utf-8")
    assert "FAILED" not in log
    for name in environments.NAMES:
        versions = re.search(rf"^{re.escape(name)}: (.*); \d+ s$", log, re.MULTILINE)
        assert versions is not None, f"make readers LOG={LOG.relative_to(ROOT)} has not run {name}"
        pinned = {line.replace("==", " ") for line in pins(name)}
        assert {text.removesuffix("+cpu") for text in versions[1].split(", ")} <= pinned
