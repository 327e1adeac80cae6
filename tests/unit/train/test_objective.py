import pytest
import torch
import torch.nn.functional as F
from tests.gradients import gradient_of

from candlewick.config import ModelConfig
from candlewick.model.transformer import Transformer
from candlewick.train import objective as module
from candlewick.train.objective import NextTokenLoss

NUM_TOKENS = 43


def build(dtype=torch.float64, tied=True, vocab_size=48, **changes) -> Transformer:
    shape = {"hidden_size": 16, "num_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
    model = Transformer(
        ModelConfig(**shape, max_position_embeddings=16, tie_word_embeddings=tied, **changes), vocab_size
    )
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.4 * torch.randn(parameter.shape, generator=generator))
    return model.to(dtype)


def batch(rows=5, length=13):
    """Tokens and targets, of which some do not count."""
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(NUM_TOKENS, (rows, length + 1), generator=generator)
    targets = tokens[:, 1:].where(torch.rand(rows, length, generator=generator) > 0.3, -100)
    return tokens[:, :-1], targets


def plain(model, tokens, targets, scale):
    """The loss as a textbook has it: all logits, padding cut off, autograd, a weight for each target."""
    logits = model(tokens)[..., :NUM_TOKENS]
    labels, weights = targets.clamp(min=0).flatten(), (targets >= 0).double().flatten()
    losses = F.cross_entropy(logits.flatten(0, 1), labels, reduction="none")
    return scale * (weights * losses).sum()


def gradients(model):
    found = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    return found


@pytest.mark.parametrize("rows", [1, 7, 64, 1024])
@pytest.mark.parametrize("tied", [True, False])
def test_loss_and_gradients_equal_a_plain_computation_in_float64(rows, tied):
    model = build(tied=tied)
    expected = plain(model, *batch(), 1 / 17)
    expected.backward()
    reference = gradients(model)
    loss = NextTokenLoss(model, num_tokens=NUM_TOKENS, chunk_rows=rows)(*batch(), 1 / 17)
    loss.backward()
    assert torch.allclose(loss, expected, rtol=1e-12)
    for name, grad in gradients(model).items():
        assert (grad - reference[name]).abs().max() <= 1e-9 * reference[name].abs().max(), name


@pytest.mark.parametrize("rows", [1, 7, 64, 1024])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("smoothing", [0.1, 0.75])
def test_smoothed_loss_and_gradients_equal_those_of_torch_in_float64(rows, tied, smoothing, core_row):
    model, (tokens, targets) = build(tied=tied), batch()
    logits = model(tokens)[..., :NUM_TOKENS].flatten(0, 1)
    expected = F.cross_entropy(logits, targets.flatten(), label_smoothing=smoothing, reduction="sum") / 17
    expected.backward()
    reference = gradients(model)
    objective = NextTokenLoss(model, num_tokens=NUM_TOKENS, label_smoothing=smoothing, chunk_rows=rows)
    loss = objective(tokens, targets, 1 / 17)
    loss.backward()
    with torch.no_grad():
        without_gradients = objective(tokens, targets, 1 / 17)
    found = gradients(model)
    errors = [(found[name] - grad).abs().max() / grad.abs().max() for name, grad in reference.items()]
    errors += [(value - expected).abs() / expected for value in (loss, without_gradients)]
    reference_name = "torch cross_entropy(label_smoothing), float64, loss and gradients"
    core_row("objective.label_smoothing", reference_name, max(errors).item(), 1e-12)


def test_fully_masked_batch_has_zero_smoothed_loss_and_gradients():
    model, (tokens, targets) = build(), batch()
    objective = NextTokenLoss(model, num_tokens=NUM_TOKENS, label_smoothing=0.2, chunk_rows=7)
    loss = objective(tokens, torch.full_like(targets, -100), 1.0)
    loss.backward()
    assert loss.item() == 0
    assert all((grad == 0).all() for grad in gradients(model).values())


def test_token_losses_are_never_smoothed():
    model = build()
    plain_losses, smoothed = (
        NextTokenLoss(model, num_tokens=NUM_TOKENS, label_smoothing=share).token_losses(*batch())[0]
        for share in (0.0, 0.3)
    )
    assert torch.equal(plain_losses, smoothed)


def test_gradients_are_multiplied_by_the_incoming_gradient():
    model = build()
    objective = NextTokenLoss(model, num_tokens=NUM_TOKENS)
    objective(*batch(), 0.5).backward()
    once = gradients(model)
    (3.0 * objective(*batch(), torch.tensor(0.5, dtype=torch.float64))).backward()
    for name, grad in gradients(model).items():
        assert torch.allclose(grad, 3 * once[name], rtol=1e-12, atol=1e-14)


def test_vocabulary_rows_beyond_num_tokens_change_nothing_and_get_no_gradient():
    model = build(tied=False)
    objective = NextTokenLoss(model, num_tokens=NUM_TOKENS)
    loss = objective(*batch(), 1.0)
    loss.backward()
    assert (gradient_of(model.lm_head.weight)[NUM_TOKENS:] == 0).all()
    with torch.no_grad():
        model.lm_head.weight[NUM_TOKENS:] = 1e6
    assert torch.equal(objective(*batch(), 1.0), loss)


def test_fully_masked_batch_has_zero_loss_and_gradients():
    model = build()
    tokens, targets = batch()
    objective = NextTokenLoss(model, num_tokens=NUM_TOKENS, chunk_rows=7)
    loss = objective(tokens, torch.full_like(targets, -100), 1.0)
    loss.backward()
    assert loss.item() == 0
    assert all((grad == 0).all() for grad in gradients(model).values())
    with torch.no_grad():
        assert objective(tokens, torch.full_like(targets, -100), 1.0).item() == 0


def test_loss_without_gradients_is_equal_and_computes_no_gradients(monkeypatch):
    objective = NextTokenLoss(build(), num_tokens=NUM_TOKENS, chunk_rows=8)
    expected = objective(*batch(), 0.25)
    monkeypatch.setattr(module, "_ChunkedCrossEntropy", None)
    with torch.no_grad():
        assert torch.allclose(objective(*batch(), 0.25), expected, rtol=1e-12)
    objective.requires_grad_(False)
    loss = objective(*batch(), 0.25)
    assert torch.allclose(loss, expected, rtol=1e-12)
    assert not loss.requires_grad


@pytest.mark.parametrize("frozen", ["model.", "lm_head"])
def test_frozen_parameters_get_no_gradient(frozen):
    model = build(tied=False)
    plain(model, *batch(), 1.0).backward()
    reference = gradients(model)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not name.startswith(frozen))
    NextTokenLoss(model, num_tokens=NUM_TOKENS)(*batch(), 1.0).backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is None) == name.startswith(frozen)
        assert parameter.grad is None or torch.allclose(parameter.grad, reference[name], rtol=1e-9)


def test_loss_refuses_a_second_backward_pass():
    loss = NextTokenLoss(build(), num_tokens=NUM_TOKENS)(*batch(), 1.0)
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="already differentiated"):
        loss.backward()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_loss_in_half_precision_sums_in_float32(dtype):
    model = build(dtype=dtype, tied=False)
    exact = build(dtype=torch.float64, tied=False)
    exact.load_state_dict(model.state_dict())
    objective = NextTokenLoss(model, num_tokens=NUM_TOKENS, chunk_rows=4)
    loss = objective(*batch(), 1 / 17)
    loss.backward()
    plain(exact, *batch(), 1 / 17).backward()
    assert loss.dtype == torch.float32
    assert gradient_of(model.lm_head.weight).dtype == dtype
    ours, reference = gradient_of(model.lm_head.weight).double(), gradient_of(exact.lm_head.weight)
    assert (ours - reference).norm() < 0.03 * reference.norm()


def test_loss_scale_keeps_half_precision_gradients_from_vanishing():
    tiny, loss_scale = 1e-9, torch.tensor(2.0**24)
    found = {}
    for scale in (tiny, tiny * loss_scale):
        model = build(dtype=torch.float16, tied=False)
        NextTokenLoss(model, num_tokens=NUM_TOKENS)(*batch(), scale).backward()
        found[float(scale)] = model.lm_head.weight.grad
    vanished, kept = found.values()
    assert (vanished[:NUM_TOKENS] == 0).all()
    assert (kept[:NUM_TOKENS] != 0).float().mean() > 0.9


def test_token_losses_are_per_target_and_zero_where_masked():
    model = build(dtype=torch.float32)
    tokens, targets = batch()
    losses, correct = NextTokenLoss(model, num_tokens=NUM_TOKENS, chunk_rows=9).token_losses(tokens, targets)
    with torch.no_grad():
        logits = model(tokens)[..., :NUM_TOKENS]
    expected = -logits.log_softmax(-1).gather(-1, targets.clamp(min=0)[..., None])[..., 0] * (targets >= 0)
    assert losses.shape == correct.shape == targets.shape
    assert (losses.dtype, correct.dtype) == (torch.float32, torch.bool)
    assert torch.allclose(losses, expected, rtol=1e-5)
    assert torch.equal(correct, logits.argmax(-1) == targets)
    assert not losses.requires_grad


def test_logit_chunks_are_bounded_in_rows_and_bytes():
    assert NextTokenLoss(build(), num_tokens=NUM_TOKENS).settings.rows == 1024
    assert NextTokenLoss(build(), num_tokens=NUM_TOKENS, chunk_rows=7).settings.rows == 7
    with torch.device("meta"):
        large = NextTokenLoss(Transformer(ModelConfig(num_layers=1), 32_000), num_tokens=32_000)
        huge = NextTokenLoss(Transformer(ModelConfig(num_layers=1), 1 << 20), num_tokens=1 << 20)
    assert 512 <= large.settings.rows <= 525
    assert huge.settings.rows == 256


@pytest.mark.parametrize("num_tokens", [0, 49])
def test_num_tokens_outside_the_vocabulary_rows_is_refused(num_tokens):
    with pytest.raises(ValueError, match=f"num_tokens={num_tokens} must be in 1..vocab_size=48"):
        NextTokenLoss(build(), num_tokens=num_tokens)


def test_logit_chunks_are_of_nearly_equal_size():
    chunks = module._logit_chunks(torch.zeros(10, 2), torch.zeros(3, 2), rows=7)
    assert [(part.start, part.stop, logits.shape[0]) for part, logits in chunks] == [(0, 5, 5), (5, 10, 5)]
