"""From a plan to a Trainer: model, loss, optimizer, loader and reporter of a run are made here, in order."""

import logging
from dataclasses import replace

import torch

from candlewick.checkpoint.huggingface import unsupported_by_transformers
from candlewick.checkpoint.load import load_weights, read_resized_weights
from candlewick.data.rows.loader import Loader
from candlewick.model.flops import flops_per_token
from candlewick.model.initialize import initialize, materialize
from candlewick.model.transformer import Transformer
from candlewick.model.varlen import document_kernel
from candlewick.optim.build import Optimizer, build_optimizer
from candlewick.parallel.device import configure_torch
from candlewick.parallel.fsdp import apply_fsdp
from candlewick.parallel.precision import warn_if_emulated
from candlewick.parallel.recompute import apply_recompute
from candlewick.train.guards import oom_as_machine_error
from candlewick.train.loss_scale import LossScale
from candlewick.train.mean_loss import MeanLoss
from candlewick.train.monitor.telemetry import Telemetry, measure_peak_flops
from candlewick.train.objective import NextTokenLoss
from candlewick.train.plan import Fresh, Resume, RunPlan
from candlewick.train.reporter import Reporter
from candlewick.train.saver import Describer
from candlewick.train.state import numerics_fingerprint, restore_random_state
from candlewick.train.trainer import Sampler, Trainer

logger = logging.getLogger(__name__)


@oom_as_machine_error()
def build(plan: RunPlan, sampler: Sampler | None = None, describe: Describer | None = None) -> Trainer:
    """Make the Trainer of a plan. Raises CheckpointError and MachineError."""
    config, device = plan.config, plan.device
    configure_torch(config.runtime, device.device)
    _warn(plan)
    objective = _build_objective(plan)
    optimizer = build_optimizer(objective.model, config.optimizer)
    state = replace(plan.state)
    if isinstance(plan.start, Resume):
        _restore(plan.start, optimizer, device.device)
    ranks = {"rank": device.rank, "world_size": device.world_size, "rows_read": plan.batches.rows_read}
    loader = Loader(plan.order, plan.batches, micro_batch_size=config.data.micro_batch_size, **ranks)
    flops = flops_per_token(config.model, plan.vocab_size, config.sequence_length)
    peak_flops = measure_peak_flops(device.device) * device.world_size
    telemetry = Telemetry(flops, peak_flops, device=device.device, work=plan.batches.rows_after)
    resume_step = state.step if isinstance(plan.start, Resume) else None
    return Trainer(
        plan=plan,
        state=state,
        objective=objective,
        optimizer=optimizer,
        losses=MeanLoss(state, device.device),
        loss_scale=LossScale(state, device.device) if device.compute_dtype == torch.float16 else None,
        loader=loader,
        reporter=Reporter(config.runtime, plan.run_dir, telemetry, loader, resume_step, plan.tokenizer.vocab_size),
        sampler=sampler,
        describe=describe,
    )


def _build_objective(plan: RunPlan) -> NextTokenLoss:
    """Build the model with its weights, put the loss around it, apply what comes from outside."""
    config, device = plan.config, plan.device.device
    torch.manual_seed(config.runtime.seed)
    # what cannot fit fails at once, not after all of its layers were made
    torch.empty(plan.num_parameters, device=device)
    with torch.device("meta"):
        model = Transformer(config.model, plan.vocab_size)
    materialize(model, device)
    model.init_buffers()
    if isinstance(plan.start, Fresh):
        initialize(model, config.runtime.seed)
    else:
        checkpoint = plan.start.checkpoint
        load_weights(model, read_resized_weights(checkpoint, plan.vocab_size), checkpoint.folder)
    smoothing = config.objective.label_smoothing
    objective = NextTokenLoss(model, num_tokens=plan.tokenizer.vocab_size, label_smoothing=smoothing)
    apply_recompute(model, config.runtime.recompute)
    apply_fsdp(objective, model.model.layers, plan.device)
    return objective.train()


def _restore(start: Resume, optimizer: Optimizer, device: torch.device) -> None:
    """Restore the optimizer's and the random state of a checkpoint; warn if this machine rounds differently."""
    checkpoint, saved = start.checkpoint, start.checkpoint.state
    optimizer.load_named_state(checkpoint.optimizer())
    restore_random_state(saved["random"], device)
    for name, value in numerics_fingerprint(device).items():
        if (before := saved.get(name, value)) != value:
            logger.warning("the run had %s=%s, now it is %s: results may differ by rounding", name, before, value)


def _warn(plan: RunPlan) -> None:
    """Warn of settings that are slow on this device, and of a model that only candlewick will read."""
    config, device, kind = plan.config, plan.device, plan.device.device.type
    warn_if_emulated(device, config.model.hidden_size)
    if config.model.attn_dropout > 0 and kind == "cpu":
        logger.warning("model.attn_dropout: the CPU's flash attention has no dropout, a slower way is taken")
    if config.runtime.tf32 and kind != "cuda":
        logger.warning("runtime.tf32: only CUDA devices have it, products are in float32")
    kernel = document_kernel(device.device, device.compute_dtype, config.model.head_dim)
    if config.data.document_mask and kind == "cuda" and kernel is None:
        logger.warning(
            "data.document_mask: no kernel takes all documents at once here, so each has one of its own"
        )
    if (settings := unsupported_by_transformers(config.model)) is not None:
        logger.warning(
            "no Hugging Face class expresses %s: only candlewick reads this run's checkpoints", settings
        )
