"""The custom operation of variable-length attention; its kernel needs a CUDA device (tests/gpu)."""

from typing import Any

import pytest
import torch

from candlewick.model.attention import _attend_documents_op
from candlewick.model.varlen import document_kernel


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_document_kernel_is_absent_on_the_cpu(dtype):
    assert document_kernel(torch.device("cpu"), dtype, 64) is None


def test_document_kernel_is_absent_in_float32():
    assert document_kernel(torch.device("cuda"), torch.float32, 64) is None


@pytest.mark.parametrize("window", [None, 2])
def test_opaque_attention_passes_the_checks_of_torch_for_custom_operations(window):
    torch.manual_seed(0)
    qkv = [torch.randn(2, heads, 6, 4, dtype=torch.float64, requires_grad=True) for heads in (2, 1, 1)]
    ends = torch.tensor([0, 2, 6, 9, 12], dtype=torch.int32)
    operation: Any = _attend_documents_op  # torch.library.custom_op returns a CustomOpDef
    torch.library.opcheck(operation, (qkv, ends, ends.clone(), window))
