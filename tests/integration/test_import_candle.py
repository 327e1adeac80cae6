"""Imported checkpoints of transformer_candle have equal logits and equal updates."""

import json

import pytest
import torch
import torch.nn.functional as F
from tests.candle import Candle, forward
from tests.gradients import gradient_of
from tests.prepared import newest_checkpoint
from transformers import AutoModelForCausalLM, AutoTokenizer

from candlewick.checkpoint.load import load_for_inference
from candlewick.checkpoint.open import Checkpoint
from candlewick.checkpoint.safetensors import read_tensors
from candlewick.cli.main import main
from candlewick.compat.candle.checkpoint import native_state, open_candle, to_native
from candlewick.config import AdamWConfig
from candlewick.optim.build import build_optimizer
from candlewick.tokenizer.bpe import Tokenizer

SHAPES = {  # rows, width, layers, inner, heads
    "head 32": (320, 64, 2, 256, 2),
    "head 64": (320, 128, 2, 512, 2),
    "random 1": (301, 48, 3, 100, 4),
    "random 2": (513, 40, 1, 77, 2),
    "random 3": (300, 96, 2, 64, 1),
    "random 4": (1000, 32, 4, 33, 8),
    "random 5": (333, 72, 2, 300, 3),
}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    """A folder with a tokenizer of 300 tokens."""
    from tests.conftest import make_text

    from candlewick.tokenizer.train import train_tokenizer

    folder = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer([make_text(0, 2000)], vocab_size=300)[0].write(folder)
    return folder


@pytest.fixture
def text(tmp_path):
    from tests.conftest import make_text

    path = tmp_path / "text.txt"
    path.write_text(make_text(3, 4000))
    return path


@pytest.fixture
def config_file(tmp_path, tokenizer, text):
    """Write a run's configuration: `config_file(heads, width, inner)`."""

    def write(heads: int, width: int = 32, inner: int = 64, **sections) -> str:
        tree = {
            "model": {
                "hidden_size": width,
                "intermediate_size": inner,
                "num_attention_heads": heads,
                "max_position_embeddings": 32,
            },
            "tokenizer": {"tokenizer_json": str(tokenizer / "tokenizer.json")},
            "data": {
                "train_shards": [str(text)],
                "validation_fraction": 0.1,
                "cache_dir": str(tmp_path / "cache"),
            },
            "optimizer": {
                "algorithm": "adam_w",
                "learning_rate": 1e-3,
                "weight_decay": 0.1,
                "decay": "all",
                "max_grad_norm": None,
            },
            "scheduler": {"strategy": "constant", "total_steps": 12},
            "runtime": {"sample": None, "logging": {"enable_stdout": False}, "device": "cpu"},
        }
        for name, values in sections.items():
            tree[name] |= values
        path = tmp_path / "training.json"
        path.write_text(json.dumps(tree))
        return str(path)

    return write


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_imported_model_has_the_logits_of_transformer_candle(tmp_path, config_file, core_row, shape):
    rows, width, layers, inner, heads = shape
    candle = Candle(*shape, seed=rows)
    candle.write(tmp_path / "old")
    run = tmp_path / "run"
    settings = config_file(heads, width, inner)
    words = ["import", "candle", str(tmp_path / "old"), "--config", settings, "--output", str(run)]
    assert main(words) == 0
    folder = newest_checkpoint(run / "checkpoints")
    tokens = torch.randint(300, (2, 24), generator=torch.Generator().manual_seed(1))
    exact = {name: tensor.double() for name, tensor in candle.tensors.items()}
    expected = forward(tokens, exact, layers, heads)
    ours, _ = load_for_inference(run, torch.device("cpu"))
    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    assert type(theirs).__name__ == "LlamaForCausalLM"
    assert AutoTokenizer.from_pretrained(folder)("of time").input_ids == Tokenizer.load(folder).encode("of time")
    with torch.no_grad():
        found = {"ours": ours(tokens), "transformers": theirs(tokens).logits}
    for reader, logits in found.items():
        error = (logits.double() - expected).abs().max() / expected.abs().max()
        name = (
            f"`import candle`, {width // heads} wide heads" if reader == "ours" else "`import candle`, as a Llama"
        )
        core_row(name.replace("`", ""), "transformer_candle's model in float64", error.item(), 1e-5)


@pytest.mark.parametrize("heads", [1, 2, 4])
def test_imported_moments_are_permuted_like_the_weights(tmp_path, heads):
    candle = Candle(300, 32, 2, 48, heads)
    state, masters = native_state(open_candle(candle.write(tmp_path)), heads)
    assert not masters
    size = 32 // heads
    for kind, moments in {"exp_avg": candle.first, "exp_avg_sq": candle.second}.items():
        for name, moment in moments.items():
            if ".qkv." not in name:
                (ours,) = to_native(name, moment, heads)
                assert torch.equal(state[f"{ours}.{kind}"], moment)
                continue
            layer, end = name.split(".")[1], name.rsplit(".", 1)[1]
            for part, rows in zip("qkv", moment.split(32), strict=True):
                found = state[f"model.layers.{layer}.self_attn.{part}_proj.{end}.{kind}"]
                for head in range(heads):
                    for channel in range(size):
                        # our channel i < d/2 was channel 2i, our channel i + d/2 was 2i + 1
                        theirs = channel if part == "v" else 2 * (channel % (size // 2)) + channel // (size // 2)
                        assert torch.equal(found[head * size + channel], rows[head * size + theirs])
    assert {float(value) for name, value in state.items() if name.endswith(".step")} == {7.0}


@pytest.mark.parametrize(("width", "heads"), [(64, 2), (64, 1), (48, 4)])
def test_update_after_import_equals_that_of_transformer_candle(tmp_path, config_file, core_row, width, heads):
    candle = Candle(320, width, 2, 96, heads)
    candle.write(tmp_path / "old")
    run = tmp_path / "run"
    settings = config_file(heads, width, 96)
    words = ["import", "candle", str(tmp_path / "old"), "--config", settings, "--output", str(run)]
    assert main(words) == 0
    tokens = torch.randint(300, (4, 25), generator=torch.Generator().manual_seed(2))

    model, _ = load_for_inference(run, torch.device("cpu"))
    config = AdamWConfig(learning_rate=1e-3, weight_decay=0.1, decay="all", max_grad_norm=None)
    optimizer = build_optimizer(model, config)
    optimizer.load_named_state(
        read_tensors(newest_checkpoint(run / "checkpoints") / "training/optimizer.safetensors")
    )
    F.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten()).backward()
    optimizer.step()

    exact = {name: tensor.double().requires_grad_() for name, tensor in candle.tensors.items()}
    logits = forward(tokens[:, :-1], exact, candle.layers, heads)
    F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten()).backward()
    step, lr, decay, beta1, beta2 = candle.step + 1, 1e-3, 0.1, 0.9, 0.95
    after = dict(model.named_parameters())
    worst = 0.0
    for name, parameter in exact.items():
        first = beta1 * candle.first[name].double() + (1 - beta1) * gradient_of(parameter)
        second = beta2 * candle.second[name].double() + (1 - beta2) * gradient_of(parameter) ** 2
        direction = first / (1 - beta1**step) / ((second / (1 - beta2**step)).sqrt() + 1e-8)
        expected = parameter.detach() * (1 - lr * decay) - lr * direction
        for ours, part in to_native(name, expected, heads).items():
            error = (after[ours].detach().double() - part).abs().max() / part.abs().max()
            worst = max(worst, error.item())
    core_row(
        "import candle, one update of adam_w",
        "transformer_candle's update in float64, of the largest weight",
        worst,
        1e-6,
    )


def test_imported_run_resumes_with_optimizer_step_and_schedule(tmp_path, config_file, capsys):
    Candle(320, 32, 2, 64, 2).write(tmp_path / "old")
    run = tmp_path / "run"
    assert main(["import", "candle", str(tmp_path / "old"), "--config", config_file(2), "--output", str(run)]) == 0
    assert "step 7; go on: candlewick train --run-dir" in capsys.readouterr().out
    assert main(["train", "--run-dir", str(run), "--resume"]) == 0
    output = capsys.readouterr()
    assert "done: 12 steps" in output.out
    assert "the data begins at its first row" in output.err
    newest = newest_checkpoint(run / "checkpoints")
    assert newest.name == "step_000000012"
    steps = {
        float(v)
        for name, v in read_tensors(newest / "training/optimizer.safetensors").items()
        if name.endswith(".step")
    }
    assert steps == {12.0}
    assert Checkpoint(newest, None).state["loader"]["samples"] > 0
    assert main(["generate", str(run), "time", "--max-new-tokens", "4"]) == 0
    assert main(["eval", str(run)]) == 0


def test_import_takes_float32_master_weights_of_a_half_precision_checkpoint(tmp_path, config_file):
    candle = Candle(320, 32, 1, 64, 2)
    candle.write(tmp_path / "old", masters=True)
    words = [
        "import",
        "candle",
        str(tmp_path / "old"),
        "--config",
        config_file(2),
        "--output",
        str(tmp_path / "run"),
    ]
    assert main(words) == 0
    model, _ = load_for_inference(tmp_path / "run", torch.device("cpu"))
    assert torch.equal(model.model.embed_tokens.weight.detach(), candle.tensors["embedding.weight"])


def test_imported_weights_without_optimizer_serve_as_init_from(tmp_path, tokenizer, text, capsys):
    candle = Candle(320, 32, 1, 64, 2)
    folder = candle.write(tmp_path / "old")
    for name in ("optimizer.json", "manifest.json"):
        (folder / name).unlink()
    words = ["import", "candle", str(folder), "--weights-only", "--heads", "2", "--tokenizer", str(tokenizer)]
    assert main([*words, "--output", str(tmp_path / "weights"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["parameters"] == sum(t.numel() for t in candle.tensors.values())
    start = ["train", "--init-from", str(tmp_path / "weights"), "--run-dir", str(tmp_path / "run")]
    settings = [
        f"data.train_shards=[{text}]",
        "scheduler.total_steps=2",
        "runtime.sample=null",
        "runtime.device=cpu",
    ]
    settings += [f"data.cache_dir={tmp_path / 'cache'}", "data.sequence_length=32"]
    assert main([*start, *(word for setting in settings for word in ("--override", setting))]) == 0


def test_candle_run_on_the_hub_is_fetched_verified_and_imported(tmp_path, config_file, hub):
    candle = Candle(320, 32, 1, 64, 2)
    folder = candle.write(tmp_path / "old")
    files = {f"checkpoints/{folder.name}/{path.name}": path.read_bytes() for path in folder.iterdir()}
    files |= {"training.json": b"{}", "setup.py": b"raise SystemExit", "weights.bin": b"pickle"}
    hub.commit("vivienhenz/sconce", files)
    hub.fail("GET .*model.safetensors", "flip", "503")
    hub.fail("GET .*optimizer.json", "cut")
    words = ["import", "candle", "hf://vivienhenz/sconce@main", "--config", config_file(2)]
    assert main([*words, "--output", str(tmp_path / "run")]) == 0
    asked = {request.path.rsplit("/", 1)[-1] for request in hub.requests if "/resolve/" in request.path}
    assert asked == {path.name for path in folder.iterdir()}
    assert not hub.asked(r"setup\.py|weights\.bin")
    model, _ = load_for_inference(tmp_path / "run", torch.device("cpu"))
    assert torch.equal(model.model.embed_tokens.weight.detach(), candle.tensors["embedding.weight"])


def test_train_starts_from_published_candle_weights(tmp_path, tokenizer, text, hub, capsys):
    Candle(320, 32, 1, 64, 2).write(tmp_path / "old")
    words = [
        "import",
        "candle",
        str(tmp_path / "old" / "step_000000000007_global_000000000007"),
        "--weights-only",
    ]
    published = tmp_path / "published"
    assert main([*words, "--heads", "2", "--tokenizer", str(tokenizer), "--output", str(published)]) == 0
    settings = [
        f"data.train_shards=[{text}]",
        "scheduler.total_steps=4",
        "runtime.sample=null",
        "runtime.device=cpu",
    ]
    settings += [
        f"data.cache_dir={tmp_path / 'cache'}",
        "data.sequence_length=32",
        "runtime.checkpoint.every_n_steps=2",
    ]
    overrides = [word for setting in settings for word in ("--override", setting)]
    files = {path.name: path.read_bytes() for path in published.iterdir() if path.name != "manifest.json"}
    commit = hub.commit("me/model", {**files, "modeling.py": b"raise SystemExit"})
    start = ["train", "--init-from", "hf://me/model", "--run-dir", str(tmp_path / "run")]
    assert main([*start, *overrides]) == 0
    assert not hub.asked("modeling")
    saved = Checkpoint(newest_checkpoint(tmp_path / "run" / "checkpoints"), None).state["config"]["runtime"][
        "checkpoint"
    ]
    assert saved["init_from"] == f"hf://me/model@{commit}"
    # a run that goes on needs neither the network nor what it began with
    hub.requests.clear()
    resume = ["train", "--run-dir", str(tmp_path / "run"), "--resume", "--override", "scheduler.total_steps=6"]
    assert main(resume) == 0
    assert not hub.requests
    assert "done: 6 steps" in capsys.readouterr().out
