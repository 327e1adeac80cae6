"""Gradients of tensors that must have one."""

import torch


def gradient_of(tensor: torch.Tensor) -> torch.Tensor:
    """Return the gradient of a leaf tensor after a backward pass reached it."""
    assert tensor.grad is not None
    return tensor.grad
