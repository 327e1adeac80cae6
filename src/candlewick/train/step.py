"""One update of the weights: no logging, no timing, no waiting for the device.

    micro-batches -> loss and gradients, summed -> clip by the global norm -> optimizer

The loss is the sum of the token losses over the global batch divided by the number of its targets that count,
however the batch is cut into micro-batches or over ranks; it is 0 when none counts.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from candlewick.data.rows.loader import GlobalBatch
from candlewick.optim.build import Optimizer
from candlewick.parallel.fsdp import full_tensor
from candlewick.train.loss_scale import LossScale
from candlewick.train.objective import NextTokenLoss


@dataclass(frozen=True, slots=True, kw_only=True)
class StepResult:
    """Device scalars; reading one waits for the device."""

    loss: Tensor
    grad_norm: Tensor  # before clipping
    skipped: Tensor  # 1.0 when loss or gradients were not finite and nothing was changed, else 0.0
    loss_scale: Tensor | None = None  # of fp16: what the update was made with


def train_step(
    objective: NextTokenLoss,
    optimizer: Optimizer,
    batch: GlobalBatch,
    max_grad_norm: float | None,
    loss_scale: LossScale | None = None,
) -> StepResult:
    """Make one update. Weights, moments and momentum stay as they are when anything is not finite."""
    optimizer.zero_grad()
    device = next(objective.parameters()).device
    factor = None if loss_scale is None else loss_scale.value
    scale = (1.0 if factor is None else factor) / max(1, batch.num_targets)
    losses: list[Tensor] = []
    for micro_batch in batch.micro_batches:
        micro_batch = micro_batch.to(device)
        loss = objective(micro_batch.tokens, micro_batch.targets, scale, micro_batch.documents)
        loss.backward()
        losses.append(loss.detach())
    loss = torch.stack(losses).sum()
    gradients = [p.grad for p in objective.parameters() if p.grad is not None]
    if loss_scale is not None:
        loss = loss / loss_scale.value
        torch._foreach_mul_(gradients, 1.0 / loss_scale.value)  # pyright: ignore[reportPrivateUsage, reportPrivateImportUsage]
    norm = global_norm(gradients)
    skipped = 1.0 - (torch.isfinite(norm) & torch.isfinite(loss)).float()
    if max_grad_norm is not None:
        clip_(gradients, norm, max_grad_norm)
    optimizer.step(skipped)
    if loss_scale is not None:
        loss_scale.update(skipped)
    return StepResult(loss=loss, grad_norm=norm, skipped=skipped, loss_scale=factor)


def global_norm(gradients: Sequence[Tensor]) -> Tensor:
    """Return the Euclidean norm over all gradients, float32, on their device."""
    return full_tensor(torch.nn.utils.get_total_norm(list(gradients)))


def clip_(gradients: Sequence[Tensor], norm: Tensor, max_norm: float) -> None:
    """Scale all gradients in place so that their norm is at most `max_norm`; what is not finite stays so."""
    factor = torch.nan_to_num(max_norm / (norm + 1e-6), nan=1.0).clamp(max=1.0)
    torch._foreach_mul_(list(gradients), factor)  # pyright: ignore[reportPrivateUsage, reportPrivateImportUsage]
