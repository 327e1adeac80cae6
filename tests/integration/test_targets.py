"""Ignored targets, from token shards to loss, gradients and evaluation, compared with a definition in float64.

The definition knows nothing of IGNORE_INDEX: it has a weight of 0 or 1 for every target, written from the masks
and the places of the rows, and multiplies the plain cross-entropies by them.
"""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tests.gradients import gradient_of

from candlewick.config import DataConfig, ModelConfig, SGDConfig
from candlewick.data.rows.batches import BatchSchedule
from candlewick.data.rows.loader import Loader
from candlewick.data.rows.row_order import RowOrder, open_rows
from candlewick.data.tokens.dataset import TokenSplit
from candlewick.model.initialize import initialize
from candlewick.model.transformer import Transformer
from candlewick.optim.build import build_optimizer
from candlewick.train.evaluate import evaluate
from candlewick.train.objective import NextTokenLoss
from candlewick.train.step import train_step

T, ROWS, DELIMITER, VOCABULARY = 8, 4, 255, 256


def make_split(first: int, *documents: int, mask=None) -> TokenSplit:
    """Tokens first, first + 1, ...: no id comes twice, so that a token says its place. Two shards."""
    ends = np.cumsum(documents)
    total, cut = int(ends[-1]), 11
    ids = np.arange(first, first + total, dtype=np.uint16)
    masks = None if mask is None else np.array([mask(i) for i in range(total)], np.uint8)
    return TokenSplit(
        "train",
        f"id {first}",
        (ids[:cut], ids[cut:]),
        (0, cut),
        total,
        4 * total,
        delimiter_id=DELIMITER,
        document_ends=(ends[ends <= cut].astype(np.uint64), (ends[ends > cut] - cut).astype(np.uint64)),
        masks=None if masks is None else (masks[:cut], masks[cut:]),
        masked_tokens=0 if masks is None else int((masks == 0).sum()),
    )


def is_answer(position: int) -> bool:
    return position % 7 > 3


TEXT = make_split(0, 9, 20, 3, 5, 16)  # 53 tokens: the last of 7 rows has 5 targets
CHAT = make_split(100, 12, 7, 4, 18, mask=is_answer)
MUTE = make_split(0, 30, 23, mask=lambda _: False)
MIXTURE = {"mixture": [{"shards": ["x"], "weight": 2}, {"shards": ["y"], "weight": 1}]}
CASES = {
    "circular": ((TEXT,), {}),
    "bfd": ((TEXT,), {"packing": "bfd"}),
    "chat": ((CHAT,), {}),
    "chat, bfd": ((CHAT,), {"packing": "bfd"}),
    "mixture": ((TEXT, CHAT), MIXTURE),
    "mixture, bfd": ((TEXT, CHAT), {**MIXTURE, "packing": "bfd"}),
    "nothing counts": ((MUTE,), {}),
}


def weight(split: TokenSplit, token: int, column: int, row: int, data: DataConfig) -> float:
    """Say of a token if its target counts: 1, or 0."""
    if token == DELIMITER:
        return 0.0  # padding
    position = (token - int(split.shards[0][0]) + 1) % split.num_tokens  # of the target
    if data.packing == "chunk" and row * T + column >= split.num_tokens:
        return 0.0  # once around the circle
    return 1.0 if split.masks is None else float(np.concatenate(split.masks)[position])


def score(model: Transformer, split: TokenSplit, row: int, tokens: torch.Tensor, data: DataConfig):
    """Return of the T targets of a row the losses, whether they are the likeliest tokens, and the weights."""
    first, ids = int(split.shards[0][0]), tokens.tolist()
    targets = torch.tensor([0 if i == DELIMITER else first + (i - first + 1) % split.num_tokens for i in ids])
    weights = torch.tensor([weight(split, i, column, row, data) for column, i in enumerate(ids)]).double()
    logits = model(tokens[None])[0]
    return F.cross_entropy(logits, targets, reduction="none"), (logits.argmax(1) == targets).double(), weights


def make_model() -> Transformer:
    config = ModelConfig(hidden_size=16, num_layers=1, num_attention_heads=2, max_position_embeddings=T)
    model = Transformer(config, VOCABULARY)
    initialize(model, 0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    return model.double()


@pytest.mark.parametrize("micro_batch_size", [4, 2, 1])
@pytest.mark.parametrize("case", CASES)
def test_update_with_ignored_targets_equals_weights_of_zero_and_one(case, micro_batch_size):
    sources, settings = CASES[case]
    data = DataConfig.model_validate({**settings, "micro_batch_size": micro_batch_size}, strict=False)
    loader = Loader(
        RowOrder(sources, data, sequence_length=T, seed=3),
        BatchSchedule(ROWS),
        micro_batch_size=data.micro_batch_size,
    )
    order, counts = RowOrder(sources, data, sequence_length=T, seed=3), set()
    for update in range(5):
        model, plain = make_model(), make_model()
        objective = NextTokenLoss(model, num_tokens=VOCABULARY, chunk_rows=5)
        optimizer = build_optimizer(model, SGDConfig(learning_rate=0.1, momentum=0.0, weight_decay=0.0))
        batch = loader.next()
        result = train_step(objective, optimizer, batch, None)
        places = order.positions(update * ROWS, ROWS)
        rows = torch.from_numpy(order.read(places).tokens).long()
        total, count = torch.zeros((), dtype=torch.float64), 0.0
        for (source, row, _), tokens in zip(places.T.tolist(), rows, strict=True):
            losses, _, weights = score(plain, sources[source], row, tokens, data)
            total, count = total + (losses * weights).sum(), count + weights.sum().item()
        loss = total / (count or 1.0)
        loss.backward()
        assert batch.num_targets == count
        assert result.loss.item() == pytest.approx(loss.item(), rel=1e-12)
        assert result.skipped.item() == 0
        for (name, parameter), start in zip(model.named_parameters(), plain.parameters(), strict=True):
            torch.testing.assert_close(
                parameter, start - 0.1 * gradient_of(start), rtol=1e-9, atol=1e-12, msg=name
            )
        counts.add(count)
    loader.close()
    assert counts == {0.0} if case == "nothing counts" else len(counts) > 1


@pytest.mark.parametrize("packing", ["chunk", "bfd"])
@pytest.mark.parametrize("split", [TEXT, CHAT], ids=["text", "chat"])
def test_evaluation_of_a_filled_batch_equals_weights_of_zero_and_one(split, packing):
    data = DataConfig(micro_batch_size=4, packing=packing)
    objective = NextTokenLoss(make_model().float(), num_tokens=VOCABULARY)
    found = evaluate(objective, split, data, sequence_length=T, max_tokens=None)
    view, sums = open_rows(split, data, T), torch.zeros(3, dtype=torch.float64)
    model = make_model()
    for row in range(view.num_rows):
        tokens = torch.from_numpy(view.read(np.array([row]), 0).tokens[0]).long()
        losses, correct, weights = score(model, split, row, tokens, data)
        sums += torch.stack([(losses * weights).sum(), (correct * weights).sum(), weights.sum()]).detach()
    assert view.num_rows % 4  # rows of the last batch only fill it
    assert found["eval/tokens"] == split.num_targets == sums[2]
    assert found["eval/loss"] == pytest.approx((sums[0] / sums[2]).item(), rel=1e-5)
    assert found["eval/accuracy"] == pytest.approx((sums[1] / sums[2]).item(), rel=1e-6)
