import torch
from torch import nn
from torch.distributed.tensor import DTensor, Replicate, distribute_tensor

from candlewick.optim.shard import local_tensor


def test_local_tensor_of_a_plain_tensor_is_the_tensor():
    tensor = torch.ones(2)
    assert local_tensor(tensor) is tensor


def test_local_tensor_of_a_sharded_parameter_shares_its_memory(mesh):
    parameter = nn.Parameter(distribute_tensor(torch.arange(4.0), mesh, [Replicate()]))
    with torch.no_grad():
        local_tensor(parameter).mul_(2)
        assert isinstance(parameter, DTensor)
        assert torch.equal(parameter.full_tensor(), 2 * torch.arange(4.0))
