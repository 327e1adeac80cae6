import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from candlewick.config import DataConfig, ModelConfig
from candlewick.data.tokens.dataset import TokenSplit
from candlewick.model.initialize import initialize
from candlewick.model.transformer import Transformer
from candlewick.train import evaluate as evaluate_module
from candlewick.train.evaluate import evaluate, evaluate_sets
from candlewick.train.guards import StopAskedError
from candlewick.train.objective import NextTokenLoss

T = 13
TEXTS = ("The first document, é.\n" * 9, "And ein zweites: 1, 2, 3.\n" * 7)


@pytest.fixture(scope="module")
def objective() -> NextTokenLoss:
    config = ModelConfig(
        hidden_size=32, num_layers=2, num_attention_heads=2, max_position_embeddings=16, residual_dropout=0.5
    )
    model = Transformer(config, 320)
    model.init_buffers()
    initialize(model, 0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    return NextTokenLoss(model, num_tokens=300)


@pytest.fixture(scope="module")
def split(tokenizer) -> TokenSplit:
    """Two documents as one split in two shards."""
    ids = [i for text in TEXTS for i in (tokenizer.delimiter_id, *tokenizer.encode(text))]
    shards = (np.array(ids[:50], np.uint16), np.array(ids[50:], np.uint16))
    size = sum(len(text.encode()) for text in TEXTS)
    return TokenSplit("validation", "a" * 64, shards, (0, 50), len(ids), size)


def plain(objective, split, rows=slice(None)) -> tuple[float, float, int]:
    """Sum of losses in nats, right guesses and number of targets, in float64, one row at a time."""
    model = objective.model.eval().double()
    ids = [*np.concatenate(split.shards).tolist()]
    ids.append(ids[0])  # the last token predicts the delimiter, as every document's last one does
    loss = right = count = 0
    for start in [*range(0, split.num_tokens, T)][rows]:
        tokens = torch.tensor(ids[start : start + T + 1])
        logits = model(tokens[None, :-1])[0, :, :300]
        loss += F.cross_entropy(logits, tokens[1:], reduction="sum").item()
        right += (logits.argmax(1) == tokens[1:]).sum().item()
        count += len(tokens) - 1
    model.float()
    return loss, right, count


@pytest.mark.parametrize("micro_batch_size", [1, 3, 100])
def test_evaluate_agrees_with_a_plain_computation(objective, split, micro_batch_size):
    loss, right, count = plain(objective, split)
    found = evaluate(
        objective, split, DataConfig(micro_batch_size=micro_batch_size), sequence_length=T, max_tokens=None
    )
    assert count == split.num_tokens
    assert found["eval/tokens"] == count
    assert found["eval/loss"] == pytest.approx(loss / count, rel=1e-6)
    assert found["eval/perplexity"] == pytest.approx(math.exp(loss / count), rel=1e-5)
    assert found["eval/accuracy"] == right / count
    size = sum(len(text.encode()) for text in TEXTS)
    assert found["eval/bits_per_byte"] == pytest.approx(loss / math.log(2) / size, rel=1e-6)


def test_evaluate_sets_reads_equal_splits_once(objective, split, monkeypatch):
    settings = {"data": DataConfig(micro_batch_size=4), "sequence_length": T, "max_tokens": None}
    part = replace(split, shards=split.shards[:1], shard_starts=(0,), num_tokens=50)
    expected = evaluate(objective, split, **settings)
    for key, value in evaluate(objective, part, **settings).items():
        expected[key.replace("eval/", "eval/part/")] = value
    expected |= {
        key.replace("eval/", "eval/same/"): value for key, value in expected.items() if key.count("/") == 1
    }
    calls = []
    read = evaluate_module.validation_batches
    monkeypatch.setattr(evaluate_module, "validation_batches", lambda *a, **k: calls.append(1) or read(*a, **k))
    assert evaluate_sets(objective, {"": split, "part": part, "same": split}, **settings) == expected
    assert len(calls) == 2


def test_evaluate_with_max_tokens_spreads_them_over_the_split(objective, split):
    rows = -(-split.num_tokens // T)
    loss, _, count = plain(objective, split, slice(0, rows - 1, rows // 2))
    found = evaluate(objective, split, DataConfig(micro_batch_size=1), sequence_length=T, max_tokens=2 * T)
    assert found["eval/tokens"] == count == 2 * T
    assert found["eval/loss"] == pytest.approx(loss / count, rel=1e-6)
    per_byte = split.num_tokens / split.num_bytes / math.log(2)
    assert found["eval/bits_per_byte"] == pytest.approx(loss / count * per_byte, rel=1e-6)


@pytest.mark.parametrize("training", [True, False])
def test_evaluate_disables_dropout_and_restores_the_mode(objective, split, training):
    objective.train(training)
    settings = {"data": DataConfig(micro_batch_size=4), "sequence_length": T, "max_tokens": 4 * T}
    assert evaluate(objective, split, **settings) == evaluate(objective, split, **settings)
    assert objective.training is training
    assert all(parameter.grad is None for parameter in objective.parameters())


def test_perplexity_of_a_huge_loss_is_finite(objective, split, monkeypatch):
    monkeypatch.setattr(
        NextTokenLoss,
        "token_losses",
        lambda _, tokens, targets, documents: (1e6 * (targets >= 0), targets == 0),
    )
    found = evaluate(objective, split, DataConfig(micro_batch_size=4), sequence_length=T, max_tokens=None)
    assert found["eval/loss"] == pytest.approx(1e6)
    assert math.isfinite(found["eval/perplexity"])


def test_evaluate_with_masks_counts_unmasked_targets_and_their_bytes(objective, split):
    masks = tuple((np.arange(len(shard)) % 3 == 0).astype(np.uint8) for shard in split.shards)
    left_out = split.num_tokens - int(sum(mask.sum() for mask in masks))
    some = replace(split, masks=masks, masked_tokens=left_out)
    found = evaluate(objective, some, DataConfig(micro_batch_size=4), sequence_length=T, max_tokens=None)
    assert found["eval/tokens"] == some.num_targets < split.num_tokens
    bits = found["eval/loss"] / math.log(2) * some.num_targets / split.num_bytes
    assert found["eval/bits_per_byte"] == pytest.approx(bits)
    none = replace(split, masks=tuple(0 * mask for mask in masks), masked_tokens=split.num_tokens)
    nothing = evaluate(objective, none, DataConfig(micro_batch_size=4), sequence_length=T, max_tokens=None)
    assert nothing["eval/tokens"] == 0
    assert math.isnan(nothing["eval/loss"])
    assert math.isnan(nothing["eval/perplexity"])


def test_evaluate_with_document_mask_separates_documents(objective, split, tokenizer):
    ends = (np.array([], np.uint64), np.array([], np.uint64))
    masked = DataConfig(micro_batch_size=4, document_mask=True)
    apart, together = (
        evaluate(
            objective,
            replace(split, document_ends=ends, delimiter_id=tokenizer.delimiter_id),
            data,
            sequence_length=T,
            max_tokens=None,
        )["eval/loss"]
        for data in (masked, DataConfig(micro_batch_size=4))
    )
    assert apart != together


def test_losses_of_many_batches_are_added_up_in_float64(objective, split, monkeypatch):
    batches = []

    def token_losses(_, tokens, targets, documents):
        losses = torch.zeros(targets.shape)
        losses[0, 0] = 2.0**24 if not batches else 1.0
        batches.append(targets.ge(0).sum().item())
        return losses, targets == 0

    monkeypatch.setattr(NextTokenLoss, "token_losses", token_losses)
    found = evaluate(objective, split, DataConfig(micro_batch_size=1), sequence_length=T, max_tokens=4 * T)
    assert found["eval/loss"] == (2.0**24 + 3) / sum(batches)
    assert found["eval/perplexity"] == math.exp(700)


def test_evaluation_ends_before_the_next_batch_when_asked_to(objective, split):
    batches = list[int]()

    def stop_at_the_third() -> None:
        batches.append(len(batches))
        if len(batches) == 3:
            raise StopAskedError

    settings: Any = {"sequence_length": T, "max_tokens": None, "before_batch": stop_at_the_third}
    objective.train()
    with pytest.raises(StopAskedError):
        evaluate_sets(objective, {"": split}, DataConfig(micro_batch_size=1), **settings)
    assert len(batches) == 3
    assert objective.training
