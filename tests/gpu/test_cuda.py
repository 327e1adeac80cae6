"""On a CUDA device: it trains in both precisions, resumes to the bit when asked to, and is read elsewhere."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from candlewick.checkpoint.layout import newest_valid
from candlewick.checkpoint.load import load_for_inference
from candlewick.checkpoint.safetensors import read_tensors
from candlewick.errors import Interrupted
from candlewick.model.attention import attend
from candlewick.model.documents import Documents
from candlewick.pipeline.training import run_training
from candlewick.train.trackers import read_metrics
from candlewick.train.trainer import Trainer

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    # the process group of one rank that precision needs has nothing to say that a test should fail for
    pytest.mark.filterwarnings("ignore::UserWarning:torch.distributed.*"),
]


@pytest.fixture(autouse=True)
def _deterministic_as_before(monkeypatch):
    """Let cuBLAS be deterministic from the first product on, and take the setting back after each test."""
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def configure(tiny):
    """Make configs of five steps on the device: `configure(precision, deterministic=False)`."""

    def make(precision: str, *, deterministic: bool = False):
        runtime = tiny().runtime.model_dump(mode="json")
        runtime |= {"device": "cuda", "precision": precision, "deterministic": deterministic}
        runtime["evaluation"] = {"every_n_steps": 2, "max_batches": 2}
        return tiny(runtime=runtime, scheduler={"total_steps": 5, "warmup_steps": 1})

    return make


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_loss_falls(configure, tmp_path, precision):
    result = run_training(configure(precision), tmp_path / "run", resume=False)
    losses = [row["train/loss"] for row in read_metrics(tmp_path / "run" / "metrics.jsonl") if "train/loss" in row]
    assert len(losses) == 5
    assert losses[-1] < 0.95 * losses[0]
    assert result["metrics"]["eval/loss"] < losses[0]
    weights = read_tensors(newest_valid(tmp_path / "run" / "checkpoints") / "model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}
    assert not any(torch.equal(tensor, tensor.bfloat16().float()) for tensor in weights.values())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_deterministic_run_resumes_to_the_bit(configure, tmp_path, monkeypatch, precision):
    config = configure(precision, deterministic=True)
    run_training(config, tmp_path / "whole", resume=False)
    original = Trainer._plan_end

    def plan_end(trainer):
        original(trainer)
        if trainer.state.step == 3:
            trainer.stop.on_signal(2, None)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_plan_end", plan_end)
        with pytest.raises(Interrupted):
            run_training(config, tmp_path / "parts", resume=False)
    run_training(config, tmp_path / "parts", resume=True)
    for name in ("model.safetensors", "optimizer.safetensors"):
        whole, parts = (
            read_tensors(newest_valid(tmp_path / d / "checkpoints") / name) for d in ("whole", "parts")
        )
        assert whole.keys() == parts.keys()
        assert all(torch.equal(whole[key], parts[key]) for key in whole)


def test_both_precisions_see_the_same_run(configure, tmp_path):
    results = [run_training(configure(p), tmp_path / p, resume=False) for p in ("fp32", "bf16")]
    losses = [result["metrics"]["eval/loss"] for result in results]
    assert losses[1] == pytest.approx(losses[0], rel=0.01)  # 8 bits of mantissa, five steps


def test_a_checkpoint_of_the_device_is_read_by_transformers(configure, tmp_path):
    run_training(configure("bf16"), tmp_path / "run", resume=False)
    folder = newest_valid(tmp_path / "run" / "checkpoints")
    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    tokens = torch.randint(300, (4, 32), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = theirs(tokens).logits
        for device, tolerance in (("cpu", 1e-5), ("cuda", 1e-4)):
            ours, _ = load_for_inference(folder, torch.device(device))
            found = ours(tokens.to(device)).cpu()
            assert (found - expected).abs().max() <= tolerance * expected.abs().max()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("window", [None, 1, 50])
@pytest.mark.parametrize("is_compiled", [False, True])
def test_documents_are_a_dense_mask(core_row, dtype, window, is_compiled):
    generator = torch.Generator().manual_seed(0)
    shapes = ((2, 4, 256, 64), (2, 2, 256, 64), (2, 2, 256, 64))
    exact = [torch.randn(s, generator=generator).to(dtype).double().requires_grad_() for s in shapes]
    torch._dynamo.reset()
    function = torch.compile(attend, backend="aot_eager", fullgraph=True, dynamic=False) if is_compiled else attend
    for share in (0.0, 0.02, 0.5):
        documents = Documents.from_starts(torch.rand(2, 256, generator=generator) < share)
        dense = _dense(*exact, window, documents.positions)
        weight = torch.randn(dense.shape, generator=generator, dtype=torch.float64)
        expected = [dense, *torch.autograd.grad((dense * weight).sum(), exact)]
        inputs = [x.detach().to("cuda", dtype).requires_grad_() for x in exact]
        there = documents.to(torch.device("cuda"))
        found = function(*inputs, window=window, documents=there)
        gradients = torch.autograd.grad((found * weight.to("cuda", dtype)).sum(), inputs)
        limit = {torch.bfloat16: 0.02, torch.float16: 0.003, torch.float32: 1e-5}[dtype]
        for ours, theirs in zip((found, *gradients), expected, strict=True):
            error = (ours.double().cpu() - theirs).abs().max() / theirs.abs().max()
            name = str(dtype).removeprefix("torch.")
            core_row("data.document_mask=true", f"CUDA {name}: dense mask, float64", error.item(), limit)


def _dense(q, k, v, window, positions):
    """Attention written out, with the mask of what may be seen."""
    k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], 1) for x in (k, v))
    places = torch.arange(q.shape[2])
    distance = places[:, None] - places
    hidden = (distance < 0) | (distance > positions[..., None])
    if window is not None:
        hidden = hidden | (distance >= window)
    scores = (q @ k.mT / q.shape[-1] ** 0.5).masked_fill(hidden[:, None], -torch.inf)
    return scores.softmax(-1) @ v
