"""The functions of the attention benchmark with tiny shapes, and one run of it; no test asserts a time."""

import importlib
import json
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch
import torch.nn.functional as F

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def bench():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(FOLDER))
        yield importlib.import_module("attention")


@pytest.fixture
def bars(bench):
    return sys.modules["bars"]


@pytest.mark.parametrize("rows", [1, 5, 256])
def test_reference_is_softmax_attention_in_float64(bench, rows):
    q, k, v, _ = bench.inputs((2, 3, 17, 8), "bfloat16", CPU)
    expected = F.scaled_dot_product_attention(q.double(), k.double(), v.double(), is_causal=True)
    found = bench.exact(q, k, v, rows)
    assert found.dtype == torch.float64
    assert torch.allclose(found, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(("dtype", "limit"), [("float32", 2e-6), ("bfloat16", 2e-2), ("float16", 2e-3)])
def test_naive_and_candlewick_attention_are_near_the_reference(bench, dtype, limit):
    case = bench.measure_errors((2, 2, 40, 16), dtype, CPU)
    assert case["max_abs_error"].keys() == {"ours", "naive"}
    assert all(0 < error < limit for error in case["max_abs_error"].values())


def test_naive_attention_is_skipped_beyond_its_token_limit(bench, monkeypatch):
    monkeypatch.setattr(bench, "NAIVE_TOKENS", 16)
    assert bench.measure_errors((1, 1, 17, 8), "float32", CPU)["max_abs_error"].keys() == {"ours"}


def test_training_pass_returns_equal_gradients_for_both_attentions(bench):
    tensors = bench.inputs((1, 2, 12, 8), "float32", CPU)
    ours, naive = (bench.call(side, "training", tensors)() for side in ("ours", "naive"))
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(ours, naive, strict=True))
    assert not bench.call("ours", "forward", tensors)().requires_grad


def test_timed_attentions_take_turns(bench, monkeypatch):
    monkeypatch.setattr(bench, "LEAST_SECONDS", 0.0)
    order = []
    spent = bench.take_turns({side: lambda side=side: order.append(side) for side in "ab"}, CPU, 4, 60.0)
    assert [len(values) for values in spent.values()] == [4, 4]
    assert "".join(order) == "aabb" + "ab" + "ba" + "ab" + "ba"  # each twice to warm up
    short = bench.take_turns({"a": lambda: None}, CPU, 50, 0.0)
    assert len(short["a"]) == 3


def test_throughput_counts_tokens_once_and_once_per_head(bench):
    case = bench.rates((2, 4, 100, 8), "float32", "forward", {"ours": [0.5, 0.1, 0.2], "naive": [0.4, 0.8, 0.5]})
    assert case["tokens_per_second"]["ours"] == pytest.approx(1000)
    assert case["head_tokens_per_second"]["ours"] == pytest.approx(4000)
    assert case["ratio_of_medians"] == pytest.approx(2.5)
    assert case["seconds"]["ours"] == [0.1, 0.2, 0.5]


def test_memory_measurement_shows_the_full_attention_matrix(bench):
    shape = (1, 2, 1024, 16)
    matrix = 2 * 1024 * 1024 * 4
    naive, ours = (bench.growth_of_child(shape, "float32", "forward", side, CPU) for side in ("naive", "ours"))
    if naive["how"] != "VmHWM":
        pytest.skip("this system does not let a process reset its peak")
    assert 2 * matrix < naive["bytes"] < 4 * matrix
    assert 4 * 2 * 1024 * 16 <= ours["bytes"] < matrix / 4  # its output, and no matrix


def test_failed_memory_measurement_raises_with_the_cause(bench):
    with pytest.raises(RuntimeError, match=r"float99.* failed: (.|\n)*KeyError"):
        bench.growth_of_child((1, 1, 4, 4), "float99", "forward", "ours", CPU)


def result_of(bench, shape):
    cases = {"correctness": [], "throughput": [], "memory": []}
    for dtype in ("float32", "bfloat16"):
        cases["correctness"].append(
            {"shape": shape, "dtype": dtype, "max_abs_error": {"ours": 1e-3, "naive": 2e-3}}
        )
        for kind in bench.PASSES:
            spent = {"ours": [0.001], "naive": [0.002]}
            cases["throughput"].append(bench.rates(shape, dtype, kind, spent))
            for side, size in (("ours", 1 << 20), ("naive", 3 << 20)):
                cases["memory"].append({"shape": shape, "dtype": dtype, "pass": kind, "side": side, "bytes": size})
    return cases


def test_table_shows_published_figures_of_transformer_candle(bench):
    lines = bench.table(result_of(bench, (1, 4, 512, 64))).splitlines()
    assert [line.count("|") for line in lines[:4]] == [14] * 4
    row = [cell.strip() for cell in lines[2].strip("|").split("|")]
    assert row == [
        *("(1,4,512,64)", "float32", "616.2", "167.8", "1,024.0", "**2,048.0**", "2.00", "1,024.0", "2,048.0"),
        *("1.00", "3.00", "1.00", "3.00"),
    ]
    assert lines[-1] == "| bfloat16 | 512 to 512 | 1.00e-03 | 2.00e-03 | 3.91e-03 |"


def test_published_rows_are_the_measured_shapes(bench):
    assert {shape for shape, _ in bench.CANDLE} == set(bench.SHAPES)
    # the "fused" path was slower in every row
    assert all(reference > fused for reference, fused in bench.CANDLE.values())


def test_bars_have_logarithmic_length_and_escaped_names(bars):
    picture = bars.bars("a < b", "bytes & more", {"one": {"x": 10.0, "y": 1000.0}, "two": {"x": None, "y": 100.0}})
    tree = ElementTree.fromstring(picture)
    rects = [rect for rect in tree.iter("{http://www.w3.org/2000/svg}rect") if rect.get("height") != "10"]
    widths = [float(rect.attrib["width"]) for rect in rects]
    assert widths == [0.5, bars.WIDTH, bars.WIDTH / 2]  # the axis goes from 10 to 1000
    assert len({rect.get("fill") for rect in rects}) == 2
    texts = [text.text for text in tree.iter("{http://www.w3.org/2000/svg}text")]
    assert {"a < b", "bytes & more", "one", "two", "x", "y", "10", "100", "1,000"} <= set(texts)


def test_bars_without_values_are_refused(bars):
    with pytest.raises(ValueError, match="empty: nothing to draw"):
        bars.bars("empty", "bytes", {"one": {"x": None}})


def test_benchmark_runs_and_writes_its_files(tmp_path):
    words = [
        "--quick",
        "--device",
        "cpu",
        "--repeats",
        "1",
        "--json",
        tmp_path / "a.json",
        "--plots",
        tmp_path / "p",
    ]
    done = subprocess.run(
        [sys.executable, FOLDER / "attention.py", *map(str, words)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.startswith("| shape | dtype | candle reference |")
    result = json.loads((tmp_path / "a.json").read_text())
    assert {"date", "processor", "torch", "device", "correctness", "throughput", "memory"} <= result.keys()
    assert len(result["memory"]) == 4
    assert sorted(path.name for path in (tmp_path / "p").iterdir()) == [
        *("attention_correctness.svg", "attention_memory_forward.svg"),
        *("attention_memory_training.svg", "attention_throughput.svg"),
    ]
