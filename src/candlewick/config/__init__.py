"""Every setting of a run; see `run` for the tree."""

from candlewick.config.data import BatchStage, DataConfig, MixtureSource, TokenizerConfig
from candlewick.config.model import LinearScaling, Llama3Scaling, ModelConfig, NtkScaling, YarnScaling
from candlewick.config.optimizer import (
    AdamConfig,
    AdamWConfig,
    LionConfig,
    MuonConfig,
    OptimizerConfig,
    Role,
    SchedulerConfig,
    SGDConfig,
)
from candlewick.config.run import (
    BestConfig,
    CheckpointConfig,
    EvaluationConfig,
    LoggingConfig,
    RunConfig,
    RuntimeConfig,
    SampleConfig,
)
from candlewick.config.section import Section, Steps

__all__ = [
    "AdamConfig",
    "AdamWConfig",
    "BatchStage",
    "BestConfig",
    "CheckpointConfig",
    "DataConfig",
    "EvaluationConfig",
    "LinearScaling",
    "LionConfig",
    "Llama3Scaling",
    "LoggingConfig",
    "MixtureSource",
    "ModelConfig",
    "MuonConfig",
    "NtkScaling",
    "OptimizerConfig",
    "Role",
    "RunConfig",
    "RuntimeConfig",
    "SGDConfig",
    "SampleConfig",
    "SchedulerConfig",
    "Section",
    "Steps",
    "TokenizerConfig",
    "YarnScaling",
]
