"""Settings of the optimizers, one class per `algorithm`, and of the learning-rate schedule."""

from typing import Annotated, Any, Literal, Self, get_args

from pydantic import Discriminator, Field, Tag, model_validator

from candlewick.config.section import Count, Fraction, NotNegative, Positive, Section, Steps

Role = Literal["matrix", "embedding", "head", "vector"]


class _Optimizer(Section):
    """Settings of every optimizer."""

    learning_rate: Positive = 3e-4
    """Peak learning rate."""
    weight_decay: NotNegative = 0.1
    """Weight decay, multiplied by the learning rate at each update; `adam` and `sgd` add it to the gradient."""
    decay: Literal["matrices", "all"] = "matrices"
    """Parameters that decay: weight matrices (embeddings included), or all."""
    weight_decay_exclude: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    """Patterns of the names of parameters that do not decay, whatever `decay` says: `["*embed_tokens*"]`."""
    max_grad_norm: Positive | None = 1.0
    """Clip the global gradient norm to this; null disables clipping."""
    learning_rate_scales: dict[Role, NotNegative] = Field(default={})
    """Learning-rate factors by kind of parameter: matrix (in the blocks), embedding, head, vector."""
    ema_decay: Fraction | None = None
    """Decay per update of an exponential moving average of the weights, which is evaluated, sampled and saved."""


class AdamWConfig(_Optimizer):
    """AdamW with decoupled weight decay (arXiv:1711.05101)."""

    algorithm: Literal["adam_w"] = "adam_w"
    beta1: Fraction = 0.9
    """Decay of the first moment."""
    beta2: Fraction = 0.95
    """Decay of the second moment."""
    epsilon: Positive = 1e-8
    """Added to the square root of the second moment."""


class AdamConfig(AdamWConfig):
    """Adam (arXiv:1412.6980); weight decay is part of the gradient."""

    algorithm: Literal["adam"] = "adam"  # pyright: ignore[reportIncompatibleVariableOverride]
    weight_decay: NotNegative = 0.0
    """Added to the gradient, times the weight (L2)."""


class SGDConfig(_Optimizer):
    """Stochastic gradient descent with momentum; weight decay is part of the gradient."""

    algorithm: Literal["sgd"] = "sgd"
    learning_rate: Positive = 0.1
    """Peak learning rate."""
    weight_decay: NotNegative = 0.0
    """Added to the gradient, times the weight (L2)."""
    momentum: Fraction = 0.9
    """Momentum coefficient."""
    nesterov: bool = False
    """Use Nesterov momentum."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.nesterov and not self.momentum:
            raise ValueError(
                "nesterov: true needs momentum above 0; raise optimizer.momentum, or set optimizer.nesterov=false"
            )
        return self


class LionConfig(_Optimizer):
    """Lion: the sign of an interpolated momentum (arXiv:2302.06675, algorithm 2)."""

    algorithm: Literal["lion"] = "lion"
    learning_rate: Positive = 1e-4
    """Peak learning rate; 3 to 10 times smaller than AdamW's."""
    weight_decay: NotNegative = 0.3
    """Decoupled decay, times the learning rate; 3 to 10 times AdamW's."""
    beta1: Fraction = 0.9
    """Weight of the momentum in the direction of an update."""
    beta2: Fraction = 0.99
    """Decay of the momentum."""


class MuonConfig(AdamWConfig):
    """Muon for the matrices of the blocks, AdamW for embeddings, head and vectors."""

    algorithm: Literal["muon"] = "muon"  # pyright: ignore[reportIncompatibleVariableOverride]
    learning_rate: Positive = 0.02
    """Peak learning rate of the matrices of the blocks."""
    adam_learning_rate: Positive = 3e-3
    """Peak learning rate of all other parameters."""
    momentum: Fraction = 0.95
    """Nesterov momentum coefficient of the matrices."""
    newton_schulz_steps: Annotated[int, Field(ge=1, le=20)] = 5
    """Newton-Schulz iterations, which bring the singular values of an update near 1."""
    coefficients: Literal["quintic", "polar_express"] = "quintic"
    """Coefficients of the iterations: Muon's constants, or Polar Express's for each step (arXiv:2505.16932)."""
    normuon_beta2: Fraction | None = None
    """NorMuon: decay of the second moment that normalizes the rows of an update (arXiv:2510.05491); null: off."""
    cautious_decay: bool = False
    """Decay only the weights that the update moves towards zero (arXiv:2510.12402)."""


def _algorithm(value: Any) -> str:
    return str(value.get("algorithm", "muon") if isinstance(value, dict) else getattr(value, "algorithm", "muon"))


OptimizerConfig = Annotated[
    Annotated[MuonConfig, Tag("muon")]
    | Annotated[AdamWConfig, Tag("adam_w")]
    | Annotated[AdamConfig, Tag("adam")]
    | Annotated[SGDConfig, Tag("sgd")]
    | Annotated[LionConfig, Tag("lion")],
    Discriminator(_algorithm),
]


class SchedulerConfig(Section):
    """Learning-rate schedule and end of the run. Training needs exactly one of the four `total_*` keys."""

    strategy: Literal["constant", "linear_warmup", "cosine", "cosine_with_warmup", "polynomial", "wsd"] = "wsd"
    """Learning-rate schedule. constant, linear_warmup: flat; cosine, cosine_with_warmup: cosine decay; polynomial:
    polynomial decay; wsd: flat, then linear decay. constant and cosine warm up only if warmup_steps is set, the
    others always."""
    warmup_steps: Steps | None = None
    """Updates of linear warm-up; null: 2 % of the run, at most 2,000 (50 in a run that time bounds). constant and
    cosine: none."""
    decay_fraction: Annotated[float, Field(gt=0.0, le=1.0)] = 0.4
    """Share of the run, at its end, over which `wsd` decays."""
    power: Positive = 1.0
    """Power of the `polynomial` decay: 1 is a straight line, 2 a parabola."""
    min_lr: NotNegative = 0.0
    """Final learning rate, at most the peak. Muon's adam_learning_rate falls by the same share."""
    total_steps: Count | None = None
    """End after N updates."""
    total_tokens: Count | None = None
    """End after N tokens."""
    total_epochs: Positive | None = None
    """End after N passes over the training tokens."""
    total_seconds: Positive | None = None
    """End after about N seconds of training. The number of updates is fixed once the speed is known."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        strategies = get_args(type(self).model_fields["strategy"].annotation)
        decaying = [name for name in strategies if name not in ("constant", "linear_warmup")]
        for name, users in (("decay_fraction", ["wsd"]), ("power", ["polynomial"]), ("min_lr", decaying)):
            value, default = getattr(self, name), type(self).model_fields[name].default
            if self.strategy not in users and value != default:
                fix = f"set scheduler.{name}={default:g}, its default, or scheduler.strategy={' or '.join(users)}"
                raise ValueError(f"{name}={value:g} changes nothing with strategy: {self.strategy}; {fix}")
        return self
