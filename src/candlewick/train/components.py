"""The objects of one run, and the methods that need several of them: evaluate, sample, collect a checkpoint."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from candlewick.checkpoint.open import STATE_VERSION
from candlewick.checkpoint.save import Snapshot, weights_of
from candlewick.data.rows.loader import Loader
from candlewick.model.transformer import Transformer
from candlewick.optim.build import Optimizer
from candlewick.optim.shard import local_tensor
from candlewick.parallel.fsdp import full_tensor, unsharded
from candlewick.train.evaluate import evaluate_sets
from candlewick.train.loss_scale import LossScale
from candlewick.train.objective import NextTokenLoss
from candlewick.train.plan import RunPlan
from candlewick.train.reporter import Reporter
from candlewick.train.state import TrainState, numerics_fingerprint, random_state

Metrics = dict[str, float]
Sampler = Callable[[Transformer], list[tuple[str, str]]]
"""Writes (prompt, text) pairs with a model."""


@dataclass(frozen=True, slots=True)
class TrainingComponents:
    """The objects of one run."""

    plan: RunPlan
    state: TrainState
    objective: NextTokenLoss
    optimizer: Optimizer
    loss_scale: LossScale | None  # of fp16
    loader: Loader
    reporter: Reporter
    sampler: Sampler | None
    checkpoints: Path
    best: Path

    def evaluate(self, max_batches: int | None) -> Metrics:
        """Return the metrics of at most `max_batches` (None: all) of each split; of the averages, if kept."""
        splits, data = self.plan.data.validation_splits, self.plan.config.data
        length = self.plan.config.sequence_length
        # unsharded: a save after it takes the sharded float32 weights, not those in the compute dtype
        with self.optimizer.averaged(), unsharded(self.objective):
            return evaluate_sets(self.objective, splits, data, sequence_length=length, max_batches=max_batches)

    def sample(self) -> list[tuple[str, str]]:
        """Return (prompt, text) pairs of the present weights; none if the config asks for none."""
        if self.sampler is None:
            return []
        with self.optimizer.averaged(), unsharded(self.objective):
            return self.sampler(self.objective.model)

    def local_tensors(self) -> dict[str, list[Tensor]]:
        """Return the tensors that this rank keeps between steps: "weights", "gradients" and "optimizer" state."""
        parameters = list(self.objective.parameters())
        return {
            "weights": [local_tensor(parameter) for parameter in parameters],
            "gradients": [local_tensor(parameter.grad) for parameter in parameters if parameter.grad is not None],
            "optimizer": list(self.optimizer.named_state().values()),
        }

    def snapshot(self) -> Snapshot:
        """Return the content of a checkpoint. Its weights are the averages, if the run keeps them."""
        plan, model, averages = self.plan, self.objective.model, self.optimizer.averages
        averaged = None if averages is None else {name: full_tensor(tensor) for name, tensor in averages.items()}
        device = plan.device.device
        parent = {} if plan.start.parent is None else {"parent": plan.start.parent}
        return Snapshot(
            step=self.state.step,
            weights=weights_of(model) if averaged is None else averaged,
            optimizer=self.optimizer.named_state(),
            state={
                "version": STATE_VERSION,
                "counters": self.state.to_json(),
                "loader": self.loader.state(),
                "random": random_state(device),
                "config": plan.config.model_dump(mode="json"),
                **numerics_fingerprint(device),
            },
            model_config=plan.config.model,
            vocab_size=model.vocab_size,
            tokenizer=plan.tokenizer,
            inputs={"tokens": plan.order.identity["dataset_id"], "tokenizer": plan.tokenizer.sha256, **parent},
        )
