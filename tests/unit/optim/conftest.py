import pytest
import torch
import torch.distributed as dist
from torch._C._distributed_c10d import HashStore
from torch.distributed.device_mesh import init_device_mesh
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


@pytest.fixture
def mesh():
    """A mesh of one rank, in this process."""
    dist.init_process_group("gloo", store=HashStore(), rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    dist.destroy_process_group()


class AllocatedBytes(TorchDispatchMode):
    """Counts the bytes of living storages that operations inside made: `peak` is the most at once."""

    def __init__(self):
        super().__init__()
        self.peak = 0
        self.storages = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.note((args, kwargs), is_new=False)  # what is written in place was there before
        result = func(*args, **(kwargs or {}))
        self.note(result, is_new=True)
        alive = (size for reference, size in self.storages.values() if not reference.expired())
        self.peak = max(self.peak, sum(alive))
        return result

    def note(self, tree, *, is_new):
        for tensor in tree_leaves(tree):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                known = self.storages.get(storage._cdata)
                if known is None or known[0].expired():
                    size = storage.nbytes() if is_new else 0
                    self.storages[storage._cdata] = StorageWeakRef(storage), size


@pytest.fixture
def allocated_bytes():
    return AllocatedBytes
