import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch._C._distributed_c10d import HashStore
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Replicate, distribute_tensor

from candlewick.optim.shard import own_part


@pytest.fixture
def mesh():
    """A mesh of one rank, in this process."""
    dist.init_process_group("gloo", store=HashStore(), rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    dist.destroy_process_group()


def test_a_plain_tensor_is_its_own_part():
    tensor = torch.ones(2)
    assert own_part(tensor) is tensor


def test_the_part_of_a_sharded_parameter_shares_its_memory(mesh):
    parameter = nn.Parameter(distribute_tensor(torch.arange(4.0), mesh, [Replicate()]))
    with torch.no_grad():
        own_part(parameter).mul_(2)
        assert torch.equal(parameter.full_tensor(), 2 * torch.arange(4.0))
