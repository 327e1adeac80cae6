import pytest
import torch
from tests.gradients import gradient_of
from tests.objectives import make_objective
from torch._dynamo.testing import CompileCounterWithBackend
from torch.distributed.fsdp import FSDPModule
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from candlewick.config import ModelConfig
from candlewick.model.documents import Documents
from candlewick.parallel.fsdp import full_tensor
from candlewick.parallel.recompute import Recompute
from candlewick.train.objective import NextTokenLoss

MODES: list[Recompute] = ["none", "block", "selective"]
TOKENS = torch.randint(300, (4, 33), generator=torch.Generator().manual_seed(0))


def make(mode: Recompute, dtype=torch.float32, **shape) -> NextTokenLoss:
    config = ModelConfig(
        **{"hidden_size": 32, "num_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2, **shape},
        max_position_embeddings=32,
    )
    return make_objective(config, dtype, mode)


def outcome(objective: NextTokenLoss, documents=None) -> dict[str, torch.Tensor]:
    """The loss and every gradient."""
    torch.manual_seed(7)
    loss = objective(TOKENS[:, :-1], TOKENS[:, 1:], 1 / 128, documents)
    torch.rand(3)  # what is drawn between the two passes must not reach the second run of a block
    loss.backward()
    return {"loss": loss.detach()} | {
        name: full_tensor(gradient_of(p)) for name, p in objective.named_parameters()
    }


def difference(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> float:
    assert found.keys() == expected.keys()
    return max((found[name] - expected[name]).abs().max().item() for name in expected)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "shape",
    [
        {},
        {"attn_dropout": 0.2, "residual_dropout": 0.3},
        {"mlp": "silu", "qk_norm": False, "attention_bias": True},
    ],
    ids=["plain", "dropout", "biases"],
)
def test_recompute_changes_no_bit_of_loss_or_gradients(mode, shape, core_row):
    expected = outcome(make("none", **shape))
    error = difference(outcome(make(mode, **shape)), expected)
    core_row(f"runtime.recompute={mode}", "loss and gradients without it, float32: to the bit", error, 0.0)


@pytest.mark.parametrize("mode", MODES[1:])
def test_recompute_changes_no_bit_with_documents_or_sharding(mode):
    documents = Documents.from_starts(TOKENS[:, :-1] < 30)
    expected = outcome(make("none"), documents)
    assert difference(expected, outcome(make("none"))) > 0
    assert difference(outcome(make(mode), documents), expected) == 0
    expected = outcome(make("none", torch.bfloat16))
    assert difference(outcome(make(mode, torch.bfloat16)), expected) == 0


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_recompute_replaces_the_forward_of_each_block_inside_the_sharding(mode, dtype):
    objective, plain = make(mode, dtype), make("none")
    assert [name for name, _ in objective.named_parameters()] == [name for name, _ in plain.named_parameters()]
    sharded = [module for module in objective.modules() if isinstance(module, FSDPModule)]
    blocks = objective.model.model.layers
    assert sharded == ([] if dtype == torch.float32 else [objective, *blocks])
    assert ["forward" in vars(block) for block in blocks] == [mode != "none"] * 3


class Outputs(TorchDispatchMode):
    """Counts the bytes of all that operations inside put out and that is still alive."""

    def __init__(self):
        super().__init__()
        self.storages = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                self.storages[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())
        return result

    def alive(self) -> int:
        return sum(size for reference, size in self.storages.values() if not reference.expired())


@pytest.mark.parametrize("shape", [{}, {"residual_dropout": 0.3}], ids=["plain", "dropout"])
def test_recompute_keeps_fewer_bytes_for_the_backward_pass(shape):
    waiting = {}
    for mode in MODES:
        objective = make(mode, **shape)
        with Outputs() as outputs:
            loss = objective(TOKENS[:, :-1], TOKENS[:, 1:], 1 / 128)
        waiting[mode] = outputs.alive()
        del loss
    assert waiting["selective"] < 0.75 * waiting["none"]
    assert waiting["block"] < 0.3 * waiting["none"]


@pytest.mark.parametrize("mode", MODES[1:])
def test_recompute_changes_neither_evaluation_nor_generation(mode):
    plain, objective = make("none"), make(mode)
    losses, _ = objective.token_losses(TOKENS[:, :-1], TOKENS[:, 1:])
    assert torch.equal(losses, plain.token_losses(TOKENS[:, :-1], TOKENS[:, 1:])[0])
    with torch.no_grad():
        logits = [each.model(TOKENS[:, :8], cache=each.model.new_cache(4, 16)) for each in (plain, objective)]
    assert torch.equal(*logits)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.filterwarnings(  # of the compiler itself
    "ignore:.*torch.jit.script_method.* is deprecated:DeprecationWarning",
    "ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning",
    "ignore:.*should not be instantiated:DeprecationWarning",
)
def test_recomputed_blocks_compile_into_whole_graphs_with_the_same_gradients(mode):
    expected, objective = outcome(make("none")), make(mode)
    torch.compiler.reset()
    counter = CompileCounterWithBackend("aot_eager")
    for block in objective.model.model.layers:
        block.compile(backend=counter, fullgraph=True, dynamic=False)
    assert difference(outcome(objective), expected) <= 1e-6
    assert counter.frame_count == 1  # the blocks share it
