"""The optimizers, told apart by `algorithm`, and the learning rate over time."""

from typing import Annotated, Any, Literal, Self, get_args

from pydantic import Discriminator, Field, Tag, model_validator

from candlewick.config.section import Count, Fraction, NotNegative, Positive, Section, Steps

Role = Literal["matrix", "embedding", "head", "vector"]


class _Optimizer(Section):
    """What all optimizers have."""

    learning_rate: Positive = 3e-4
    """Peak learning rate."""
    weight_decay: NotNegative = 0.1
    """Weight decay, times the learning rate, per update; `adam` and `sgd` add it to the gradient."""
    decay: Literal["matrices", "all"] = "matrices"
    """What decays: weight matrices (embeddings included), or every parameter."""
    max_grad_norm: Positive | None = 1.0
    """Clip the global gradient norm to this; null disables clipping."""
    learning_rate_scales: dict[Role, NotNegative] = Field(default={})
    """Factors of the learning rate by kind of parameter: matrix (of the blocks), embedding, head, vector."""
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
    """Momentum: share of the last direction that is kept."""
    nesterov: bool = False
    """Look ahead by one step of momentum."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.nesterov and not self.momentum:
            raise ValueError(
                "nesterov: true looks ahead by a momentum of 0; raise momentum, or set nesterov: false"
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
    """Share of the momentum in the direction of the update."""
    beta2: Fraction = 0.99
    """Decay of the momentum."""


class MuonConfig(AdamWConfig):
    """Muon for the matrices of the blocks, AdamW for embeddings, head and vectors."""

    algorithm: Literal["muon"] = "muon"  # pyright: ignore[reportIncompatibleVariableOverride]
    learning_rate: Positive = 0.02
    """Peak learning rate of the matrices."""
    adam_learning_rate: Positive = 3e-3
    """Peak learning rate of everything else."""
    momentum: Fraction = 0.95
    """Nesterov momentum of the matrices."""
    newton_schulz_steps: Annotated[int, Field(ge=1, le=20)] = 5
    """Iterations that bring a matrix's singular values near 1."""
    coefficients: Literal["quintic", "polar_express"] = "quintic"
    """Coefficients of the iterations: Muon's constants, or the optimum of each step (arXiv:2505.16932)."""
    normuon_beta2: Fraction | None = None
    """Decay of a second moment per neuron, to normalize rows of an update (arXiv:2510.05491); null disables it."""
    cautious_decay: bool = False
    """Decay only weights that the update moves towards zero anyway (arXiv:2510.12402)."""


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
    """The learning rate over time, and where the run ends: training needs exactly one of the four totals."""

    strategy: Literal["constant", "linear_warmup", "cosine", "cosine_with_warmup", "polynomial", "wsd"] = "wsd"
    """Learning-rate schedule. constant and linear_warmup: flat; cosine and cosine_with_warmup: cosine decay;
    polynomial: polynomial decay; wsd: flat, then linear decay. All begin with a warm-up, but constant and cosine
    only if warmup_steps is set."""
    warmup_steps: Steps | None = None
    """Updates of linear warm-up; null: 2 % of the run, at most 2,000; none for constant and cosine."""
    decay_fraction: Annotated[float, Field(gt=0.0, le=1.0)] = 0.4
    """Last share of the run over which `wsd` decays."""
    power: Positive = 1.0
    """Power of `polynomial`: 1 is a straight line from the peak to the end, 2 a parabola."""
    min_lr: NotNegative = 0.0
    """Learning rate at the end, at most the peak; muon's second rate falls by the same share."""
    total_steps: Count | None = None
    """End after N updates."""
    total_tokens: Count | None = None
    """End after N tokens."""
    total_epochs: Positive | None = None
    """End after N passes over the training tokens."""
    total_seconds: Positive | None = None
    """End after about N seconds of training; becomes a number of updates once the speed is known."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        strategies = get_args(type(self).model_fields["strategy"].annotation)
        decaying = [name for name in strategies if name not in ("constant", "linear_warmup")]
        for name, users in (("decay_fraction", ["wsd"]), ("power", ["polynomial"]), ("min_lr", decaying)):
            value = getattr(self, name)
            if self.strategy not in users and value != type(self).model_fields[name].default:
                fix = f"remove it, or set scheduler.strategy to {' or '.join(users)}"
                raise ValueError(f"{name}={value:g} changes nothing with strategy: {self.strategy}; {fix}")
        return self
