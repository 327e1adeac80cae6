import copy
import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from tests.gradients import gradient_of

from candlewick.config import AdamWConfig, ModelConfig, MuonConfig
from candlewick.data.rows.loader import Batch, GlobalBatch
from candlewick.model.documents import Documents
from candlewick.model.initialize import initialize
from candlewick.model.transformer import Transformer
from candlewick.optim.build import build_optimizer
from candlewick.parallel.device import Distributed
from candlewick.parallel.fsdp import apply_fsdp
from candlewick.train.loss_scale import LossScale
from candlewick.train.objective import NextTokenLoss
from candlewick.train.state import TrainState
from candlewick.train.step import clip_, global_norm, train_step

ROWS, T = 8, 12


def make_objective(dtype: torch.dtype = torch.float64) -> NextTokenLoss:
    config = ModelConfig(hidden_size=32, num_layers=2, num_attention_heads=2, max_position_embeddings=16)
    model = Transformer(config, 320)
    model.init_buffers()
    initialize(model, 0)
    return NextTokenLoss(model.to(dtype), num_tokens=300)


def make_update(micro_batch_size: int = ROWS, seed: int = 0) -> GlobalBatch:
    """The same 8 rows, of which some targets do not count, in micro-batches of this size."""
    random = torch.Generator().manual_seed(seed)
    tokens = torch.randint(300, (ROWS, T + 1), generator=random)
    counts = torch.rand(ROWS, T, generator=random) < 0.8
    targets = tokens[:, 1:].where(counts, -100)
    cut = zip(tokens[:, :-1].split(micro_batch_size), targets.split(micro_batch_size), strict=True)
    return GlobalBatch(tuple(Batch(*pair) for pair in cut), int(counts.sum()))


def state_of(objective, optimizer) -> dict[str, torch.Tensor]:
    state = dict(objective.named_parameters()) | optimizer.named_state()
    return {name: tensor.detach().clone() for name, tensor in state.items()}


def test_train_step_equals_an_update_of_plain_torch(core_row):
    objective, update = make_objective(), make_update()
    plain = copy.deepcopy(objective.model)
    optimizer = build_optimizer(objective.model, AdamWConfig(weight_decay=0.0))
    result = train_step(objective, optimizer, update, 0.5)

    (batch,) = update.micro_batches
    logits = plain(batch.tokens)[..., :300].flatten(0, 1)
    loss = F.cross_entropy(logits, batch.targets.flatten())  # the mean over the targets that count
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(plain.parameters(), 0.5)
    torch.optim.AdamW(plain.parameters(), lr=3e-4, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.0).step()

    assert result.loss.item() == pytest.approx(loss.item(), rel=1e-12)
    assert result.grad_norm.item() == pytest.approx(norm.item(), rel=1e-12)
    assert result.skipped.item() == 0.0
    errors = []
    for name, parameter in objective.model.named_parameters():
        expected = plain.get_parameter(name)
        torch.testing.assert_close(parameter, expected, rtol=1e-9, atol=1e-12)
        errors.append(((parameter - expected).abs().max() / expected.abs().max()).item())
    core_row("optimizer.max_grad_norm", "torch's clip_grad_norm_ and AdamW, float64", max(errors), 1e-9)


@pytest.mark.parametrize("micro_batch_size", [1, 2, 4])
def test_train_step_depends_on_micro_batches_by_rounding_only(micro_batch_size):
    results = []
    for size in (ROWS, micro_batch_size):
        objective = make_objective()
        optimizer = build_optimizer(objective.model, AdamWConfig(learning_rate=1e-3))
        results.append([train_step(objective, optimizer, make_update(size, seed), 1.0) for seed in (0, 1)])
    for whole, cut in zip(*results, strict=True):
        assert cut.loss.dtype == torch.float64
        assert cut.loss.item() == pytest.approx(whole.loss.item(), rel=1e-12)
        assert cut.grad_norm.item() == pytest.approx(whole.grad_norm.item(), rel=1e-12)


@pytest.mark.parametrize("config", [MuonConfig(), AdamWConfig()])
@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_train_step_with_non_finite_values_changes_nothing(config, value, where):
    objective = make_objective(torch.float32)
    optimizer = build_optimizer(objective.model, config)
    train_step(objective, optimizer, make_update(), 1.0)
    before = state_of(objective, optimizer)
    if where == "loss":
        handle = objective.register_forward_hook(lambda *args: args[2] * value)
    else:
        handle = objective.model.model.norm.weight.register_hook(lambda gradient: gradient * value)
    result = train_step(objective, optimizer, make_update(seed=1), 1.0)
    handle.remove()
    assert result.skipped.item() == 1.0
    assert not math.isfinite(result.grad_norm.item())
    after = state_of(objective, optimizer)
    assert all(torch.equal(before[name], after[name]) for name in before)
    # and the next one is as if it had never been
    assert train_step(objective, optimizer, make_update(seed=2), 1.0).skipped.item() == 0.0
    assert not any(torch.equal(before[name], p) for name, p in objective.named_parameters())


def test_train_step_lowers_the_loss_of_a_repeated_batch():
    objective = make_objective(torch.float32)
    optimizer = build_optimizer(objective.model, MuonConfig())
    losses = [train_step(objective, optimizer, make_update(), None).loss.item() for _ in range(10)]
    assert losses[0] == pytest.approx(math.log(300), rel=0.05)
    assert losses[-1] < 0.7 * losses[0]


def test_global_norm_covers_all_gradients_and_clip_scales_to_it():
    gradients = [torch.full((3,), 2.0), torch.full((2, 2), -1.0)]
    norm = global_norm(gradients)
    assert norm.item() == pytest.approx(4.0)
    clip_(gradients, norm, 8.0)
    assert gradients[0].tolist() == [2.0] * 3
    clip_(gradients, norm, 1.0)
    assert global_norm(gradients).item() == pytest.approx(1.0, rel=1e-5)
    assert gradients[0][0].item() == pytest.approx(0.5, rel=1e-5)


def half(loss_scale: float, learning_rate: float = 1e-3):
    """An objective whose products are float16, its optimizer, and a loss scale that begins there."""
    objective = make_objective(torch.float32)
    apply_fsdp(objective, objective.model.model.layers, Distributed(0, 1, torch.device("cpu"), torch.float16))
    optimizer = build_optimizer(objective.model, AdamWConfig(learning_rate=learning_rate))
    return objective, optimizer, LossScale(TrainState(loss_scale=loss_scale), torch.device("cpu"))


def test_train_step_in_half_precision_applies_and_removes_the_loss_scale():
    exact, update = make_objective(torch.float32), make_update(4)
    expected = train_step(exact, build_optimizer(exact.model, AdamWConfig(learning_rate=1e-3)), update, 1.0)
    for power in (5, 15):
        objective, optimizer, scale = half(2.0**power)
        result = train_step(objective, optimizer, update, 1.0, scale)
        assert result.loss_scale is not None
        assert result.loss_scale.item() == 2.0**power
        assert result.loss.item() == pytest.approx(expected.loss.item(), rel=1e-3)
        assert result.grad_norm.item() == pytest.approx(expected.grad_norm.item(), rel=5e-3)


def test_loss_scale_in_single_precision_changes_no_bit():
    results = []
    for scale in (None, LossScale(TrainState(), torch.device("cpu"))):
        objective = make_objective(torch.float32)
        optimizer = build_optimizer(objective.model, AdamWConfig(learning_rate=1e-3))
        result = train_step(objective, optimizer, make_update(4), 0.5, scale)
        results.append({"loss": result.loss, "norm": result.grad_norm, **state_of(objective, optimizer)})
    assert all(torch.equal(tensor, results[1][name]) for name, tensor in results[0].items())


def test_loss_scale_that_is_too_large_is_halved_until_gradients_are_finite():
    objective, optimizer, scale = half(2.0**24)
    update = make_update(4)
    tall = GlobalBatch(update.micro_batches, 1)  # gradients many times as large
    before = state_of(objective, optimizer)
    skipped = []
    while not skipped or skipped[-1]:
        after = state_of(objective, optimizer)
        assert all(torch.equal(before[name], after[name]) for name in before)
        result = train_step(objective, optimizer, tall, 1.0, scale)
        skipped.append(result.skipped.item())
    assert 1 < len(skipped) < 20
    assert result.loss_scale is not None
    assert scale.value.item() == result.loss_scale.item() == 2.0 ** (24 - len(skipped) + 1)
    assert math.isfinite(result.grad_norm.item())
    name = "model.model.embed_tokens.weight"
    assert not torch.equal(before[name], state_of(objective, optimizer)[name])


def test_train_step_passes_documents_to_the_model():
    update = make_update()
    starts = Documents.from_starts(update.micro_batches[0].tokens < 60)
    masked = GlobalBatch(
        tuple(replace(batch, documents=starts) for batch in update.micro_batches), update.num_targets
    )
    objective = make_objective()
    optimizer = build_optimizer(objective.model, MuonConfig())
    train_step(objective, optimizer, update, None)  # attention adds nothing before the first one
    (batch,) = masked.micro_batches
    apart, together = (
        objective.token_losses(batch.tokens, batch.targets, each)[0].sum().item() for each in (starts, None)
    )
    assert apart != pytest.approx(together, rel=1e-4)
    loss = train_step(objective, optimizer, masked, None).loss.item()
    assert loss == pytest.approx(apart / update.num_targets, rel=1e-9)


def test_one_target_that_counts_is_the_whole_loss_and_none_is_a_loss_of_zero():
    objective, (batch,) = make_objective(), make_update().micro_batches
    for count in (1, 0):
        targets = torch.full_like(batch.targets, -100)
        targets[0, :count] = 7
        losses, _ = objective.token_losses(batch.tokens, targets)
        update = GlobalBatch((Batch(batch.tokens, targets),), count)
        result = train_step(objective, build_optimizer(objective.model, AdamWConfig()), update, None)
        assert result.loss.item() == pytest.approx(losses.sum().item(), rel=1e-12)
        assert (result.loss.item() > 1) == (count == 1)
        assert result.skipped.item() == 0.0


def test_a_norm_that_is_no_number_clips_nothing():
    gradients = [torch.tensor([2.0, -3.0])]
    clip_(gradients, torch.tensor(math.nan), 1.0)
    assert gradients[0].tolist() == [2.0, -3.0]


def test_clipping_is_that_of_torch():
    gradients = [torch.tensor([3.0, -4.0], dtype=torch.float64), torch.tensor([1e-3], dtype=torch.float64)]
    parameters = [torch.nn.Parameter(torch.zeros_like(gradient)) for gradient in gradients]
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient.clone()
    expected = torch.nn.utils.clip_grad_norm_(parameters, 1e-3)
    norm = global_norm(gradients)
    clip_(gradients, norm, 1e-3)
    assert norm.item() == pytest.approx(expected.item(), rel=1e-15)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        assert torch.allclose(gradient, gradient_of(parameter), rtol=1e-12, atol=0)
