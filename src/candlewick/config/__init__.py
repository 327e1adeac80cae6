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
    ObjectiveConfig,
    RunConfig,
    RuntimeConfig,
    SampleConfig,
)
from candlewick.config.section import Section, Steps

__all__ = ["BatchStage", "DataConfig", "MixtureSource", "TokenizerConfig"]
__all__ += ["LinearScaling", "Llama3Scaling", "ModelConfig", "NtkScaling", "YarnScaling"]
__all__ += ["AdamConfig", "AdamWConfig", "LionConfig", "MuonConfig", "OptimizerConfig"]
__all__ += ["Role", "SGDConfig", "SchedulerConfig"]
__all__ += ["BestConfig", "CheckpointConfig", "EvaluationConfig", "LoggingConfig"]
__all__ += ["ObjectiveConfig", "RunConfig", "RuntimeConfig", "SampleConfig"]
__all__ += ["Section", "Steps"]
