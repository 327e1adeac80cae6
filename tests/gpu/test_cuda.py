"""On a CUDA device: it trains in both precisions, resumes to the bit when asked to, and is read elsewhere."""

import pytest
import torch
from tests.prepared import build_trainer, newest_checkpoint
from transformers import AutoModelForCausalLM

from candlewick.checkpoint.load import load_for_inference
from candlewick.checkpoint.safetensors import read_tensors
from candlewick.errors import RunInterrupted
from candlewick.model import masks
from candlewick.model.attention import attend, attend_masked
from candlewick.model.cache import ContiguousCache
from candlewick.model.documents import Documents
from candlewick.model.paged import PagedCache
from candlewick.runs.train import run_training
from candlewick.train.monitor.trackers import read_metrics
from candlewick.train.step import train_step
from candlewick.train.trainer import Trainer

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    # the process group of one rank that precision needs has nothing to say that a test should fail for
    pytest.mark.filterwarnings("ignore::UserWarning:torch.distributed.*"),
    pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype:UserWarning"),
    pytest.mark.filterwarnings(
        "ignore:.*torch.jit.script_method.* is deprecated:DeprecationWarning"
    ),  # torch's own
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

    def make(precision: str, **settings):
        runtime = tiny().runtime.model_dump(mode="json")
        runtime |= {"device": "cuda", "precision": precision, **settings}
        runtime["evaluation"] = {"every_n_steps": 2, "max_tokens": 256}
        return tiny(runtime=runtime, scheduler={"total_steps": 5, "warmup_steps": 1})

    return make


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_training_lowers_the_loss_and_saves_float32_weights(configure, tmp_path, precision):
    result = run_training(configure(precision), tmp_path / "run", resume=False)
    losses = [row["train/loss"] for row in read_metrics(tmp_path / "run" / "metrics.jsonl") if "train/loss" in row]
    assert len(losses) == 5
    assert losses[-1] < 0.95 * losses[0]
    assert result["metrics"]["final/loss"] < losses[0]
    weights = read_tensors(newest_checkpoint(tmp_path / "run" / "checkpoints") / "model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}
    assert not any(torch.equal(tensor, tensor.bfloat16().float()) for tensor in weights.values())


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_deterministic_run_resumes_bit_equal(configure, tmp_path, monkeypatch, precision):
    config = configure(precision, deterministic=True)
    run_training(config, tmp_path / "whole", resume=False)
    original = Trainer._set_total_steps

    def set_total_steps(trainer):
        original(trainer)
        if trainer.state.step == 3:
            trainer.stop.on_signal(2, None)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_set_total_steps", set_total_steps)
        with pytest.raises(RunInterrupted):
            run_training(config, tmp_path / "parts", resume=False)
    run_training(config, tmp_path / "parts", resume=True)
    for name in ("model.safetensors", "training/optimizer.safetensors"):
        whole, parts = (
            read_tensors(newest_checkpoint(tmp_path / d / "checkpoints") / name) for d in ("whole", "parts")
        )
        assert whole.keys() == parts.keys()
        assert all(torch.equal(whole[key], parts[key]) for key in whole)


def last_loss(config, folder) -> float:
    try:
        return run_training(config, folder, resume=False)["metrics"]["final/loss"]
    finally:
        torch.set_float32_matmul_precision("highest")


def test_precisions_reach_nearly_the_same_loss(configure, tmp_path):
    exact = last_loss(configure("fp32"), tmp_path / "fp32")
    for precision, limit in (("bf16", 0.01), ("fp16", 0.01)):  # 8 and 11 bits of mantissa, five steps
        assert last_loss(configure(precision), tmp_path / precision) == pytest.approx(exact, rel=limit)
    assert last_loss(configure("fp32", tf32=True), tmp_path / "tf32") == pytest.approx(exact, rel=5e-3)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("recompute", ["block", "selective"])
def test_recompute_changes_no_bit_of_the_loss(configure, tmp_path, precision, recompute):
    losses = [
        last_loss(configure(precision, deterministic=True, recompute=mode), tmp_path / mode)
        for mode in ("none", recompute)
    ]
    assert losses[0] == losses[1]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_averaged_weights_are_saved_and_change_no_update(configure, tmp_path, precision):
    plain = configure(precision, deterministic=True)
    config = plain.replaced(optimizer={"ema_decay": 0.5})
    run_training(config, tmp_path / "run", resume=False)
    folder = newest_checkpoint(tmp_path / "run" / "checkpoints")
    averages, state = (
        read_tensors(folder / "model.safetensors"),
        read_tensors(folder / "training/optimizer.safetensors"),
    )
    assert all(not torch.equal(average, state[f"{name}.last"]) for name, average in averages.items())
    run_training(plain, tmp_path / "plain", resume=False)
    weights = read_tensors(newest_checkpoint(tmp_path / "plain" / "checkpoints") / "model.safetensors")
    assert all(torch.equal(last, state[f"{name}.last"]) for name, last in weights.items())


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_train_step_never_waits_for_the_device(configure, tmp_path, precision):
    config = configure(precision)
    trainer = build_trainer(config, tmp_path / "run")
    with trainer.reporter.running(trainer.state):
        try:
            for step in range(4):
                update = trainer.loader.next()
                torch.cuda.set_sync_debug_mode("error" if step else "default")  # the first makes what stays
                result = train_step(trainer.objective, trainer.optimizer, update, 1.0, trainer.loss_scale)
                trainer.guard.check(trainer.state, result)
        finally:
            torch.cuda.set_sync_debug_mode("default")
            trainer.loader.close()
    trainer.guard.flush(trainer.state)
    assert trainer.state.skipped_steps == 0


@pytest.mark.parametrize("new", [1, 5, 256])
def test_attend_with_window_equals_a_dense_mask(new):
    generator = torch.Generator().manual_seed(0)
    q, k, v = (
        torch.randn(2, heads, length, 64, generator=generator, dtype=torch.float64).bfloat16()
        for heads, length in ((4, new), (2, 256), (2, 256))
    )
    found = attend(q.cuda(), k.cuda(), v.cuda(), window=50).double().cpu()
    padded = torch.cat((torch.zeros(2, 4, 256 - new, 64), q.float()), dim=2).double()
    expected = _dense(padded, k.double(), v.double(), 50, torch.arange(256).expand(2, -1))[:, :, 256 - new :]
    assert (found - expected).abs().max() <= 0.02 * expected.abs().max()


def test_checkpoint_trained_on_the_device_is_read_by_transformers(configure, tmp_path):
    run_training(configure("bf16"), tmp_path / "run", resume=False)
    folder = newest_checkpoint(tmp_path / "run" / "checkpoints")
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
def test_attend_with_documents_equals_a_dense_mask(dtype, window, is_compiled):
    generator = torch.Generator().manual_seed(0)
    shapes = ((2, 4, 256, 64), (2, 2, 256, 64), (2, 2, 256, 64))
    exact = [torch.randn(s, generator=generator).to(dtype).double().requires_grad_() for s in shapes]
    torch._dynamo.reset()
    function = torch.compile(attend, backend="aot_eager", fullgraph=True, dynamic=False) if is_compiled else attend
    for share in (0.0, 0.02, 0.5):
        documents = Documents.from_starts(torch.rand(2, 256, generator=generator) < share)
        dense = _dense(exact[0], exact[1], exact[2], window, documents.positions)
        weight = torch.randn(dense.shape, generator=generator, dtype=torch.float64)
        expected = [dense, *torch.autograd.grad((dense * weight).sum(), exact)]
        inputs = [x.detach().to("cuda", dtype).requires_grad_() for x in exact]
        there = documents.to(torch.device("cuda"))
        found = function(*inputs, window=window, documents=there)
        gradients = torch.autograd.grad((found * weight.to("cuda", dtype)).sum(), inputs)
        limit = {torch.bfloat16: 0.02, torch.float16: 0.003, torch.float32: 1e-5}[dtype]
        for ours, theirs in zip((found, *gradients), expected, strict=True):
            error = (ours.double().cpu() - theirs).abs().max()
            # a token that sees only itself has no gradient of queries and keys: nothing to compare with but 1
            assert error <= limit * max(1.0, theirs.abs().max().item())


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


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_attend_masked_gives_zeros_to_queries_that_see_nothing(dtype):
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 4, 33, 64, generator=generator).to("cuda", dtype).requires_grad_() for _ in range(3))
    mask = masks.causal(33, 33, device=q.device) & masks.padding(torch.tensor([33, 0], device=q.device), 33)
    y = attend_masked(q, k, v, mask)
    assert y[1].eq(0).all()
    assert torch.allclose(y[:1].float(), attend(q[:1], k[:1], v[:1]).float(), atol=2e-2)
    for grad in torch.autograd.grad(y.float().sum(), (q, k, v)):
        assert torch.isfinite(grad).all()
        assert grad[1].eq(0).all()


def test_paged_cache_returns_what_the_contiguous_one_does():
    device, shape = torch.device("cuda"), (2, 3, 2, 40, 16)
    caches = [ContiguousCache(shape, torch.bfloat16, device), PagedCache(shape, torch.bfloat16, device, 7)]
    for count, back in ((20, 9), (1, 10), (30, 40)):
        keys, values = torch.randn(2, *shape, device=device).bfloat16()[:, :, :, :, :count]
        for index in range(2):
            for cache in caches:
                assert cache.reserve(count) + count <= 40
            one, other = (cache.append(index, keys[index], values[index]) for cache in caches)
            assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
        for cache in caches:
            cache.length += count
            cache.rewind(back)
