import pytest
import torch
import torch.distributed as dist
from tests.gradients import gradient_of
from tests.objectives import make_objective
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from candlewick.config import ModelConfig
from candlewick.model.transformer import Block
from candlewick.parallel.fsdp import _destroy_process_group, full_tensor, unsharded
from candlewick.train.objective import NextTokenLoss

CONFIG = ModelConfig(hidden_size=32, num_layers=2, num_attention_heads=2, max_position_embeddings=16)


def make(dtype: torch.dtype, **shape) -> NextTokenLoss:
    return make_objective(CONFIG.replaced(**shape), dtype)


def batch(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    tokens = torch.randint(300, (2, 17), generator=torch.Generator().manual_seed(seed))
    return tokens[:, :-1], tokens[:, 1:]


def test_one_rank_in_float32_uses_no_fsdp():
    objective = make(torch.float32)
    assert not [module for module in objective.modules() if isinstance(module, FSDPModule)]
    weight = objective.model.lm_head.weight
    with unsharded(objective):
        assert objective.model.lm_head.weight is weight
    assert full_tensor(weight) is weight


def test_half_precision_shards_each_block_and_the_objective():
    objective = make(torch.bfloat16)
    sharded = [module for module in objective.modules() if isinstance(module, FSDPModule)]
    assert sharded == [objective, *objective.model.model.layers]


@pytest.mark.parametrize("tied", [True, False])
def test_weights_and_gradients_stay_float32_around_bfloat16_products(tied):
    objective, plain = (make(dtype, tie_word_embeddings=tied) for dtype in (torch.bfloat16, torch.float32))
    seen = []
    block = objective.model.model.layers[0]
    assert isinstance(block, Block)
    block.mlp.down_proj.register_forward_hook(lambda *args: seen.append(args[2].dtype))
    for each in (objective, plain):
        each(*batch(), 1 / 32).backward()
    assert seen == [torch.bfloat16]
    expected = dict(plain.named_parameters())
    assert dict(objective.named_parameters()).keys() == expected.keys()
    for name, parameter in objective.named_parameters():
        assert isinstance(parameter, DTensor)
        assert parameter.dtype == gradient_of(parameter).dtype == torch.float32
        assert torch.equal(full_tensor(parameter), expected[name])
        total = full_tensor(gradient_of(parameter))
        # summed over ranks, not averaged, and right up to the 8 bits of a bfloat16
        torch.testing.assert_close(total, expected[name].grad, rtol=0, atol=0.05 * total.abs().max().item())


def test_gradients_of_micro_batches_add_up_in_float32():
    whole_batch, parts = make(torch.bfloat16), make(torch.bfloat16)
    whole_batch(*batch(), 1 / 32).backward()
    for row in range(2):
        parts(*(tensor[row : row + 1] for tensor in batch()), 1 / 32).backward()
    for expected, found in zip(whole_batch.parameters(), parts.parameters(), strict=True):
        assert gradient_of(found).dtype == torch.float32
        total = full_tensor(gradient_of(expected))
        torch.testing.assert_close(
            full_tensor(gradient_of(found)), total, rtol=0, atol=0.02 * total.abs().max().item()
        )


def test_token_losses_unshards_the_weights():
    objective, plain = make(torch.bfloat16), make(torch.float32)
    tokens, targets = batch()
    objective(*batch(), 1 / 32).backward()  # after it, embedding and head are sharded again
    losses, correct = objective.token_losses(tokens, targets)
    torch.testing.assert_close(losses, plain.token_losses(tokens, targets)[0], rtol=0.01, atol=0.01)
    assert correct.shape == (2, 16)


def test_unsharded_yields_full_weights_and_shards_them_again():
    objective = make(torch.bfloat16)
    objective(*batch(), 1 / 32).backward()
    for error in (None, ZeroDivisionError):
        try:
            with unsharded(objective):
                assert not isinstance(objective.model.lm_head.weight, DTensor)
                assert objective.model(batch()[0]).dtype == torch.bfloat16
                if error is not None:
                    raise error
        except ZeroDivisionError:
            pass
        assert all(isinstance(p, DTensor) and p.dtype == torch.float32 for p in objective.parameters())


def test_process_group_is_destroyed_once():
    make(torch.bfloat16)
    assert dist.is_initialized()
    for _ in range(2):
        _destroy_process_group()
        assert not dist.is_initialized()
