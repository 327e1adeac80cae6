"""The table of resuming: what a changed setting means for a run that goes on. docs/resume.md is made from it.

    must match      another value is an error: weights, optimizer or the order of the data would not fit
    free            the run goes on with the new value, which is a line in the log
    warned of       the same, as a warning: from here on the run learns or computes otherwise
    restarts best   free, but losses before and after cannot be compared: the lowest one is looked for anew
    by content      the names are free: the ids of what was made of the text are compared

A setting has the rule of its key, else that of the section around it. One that came after the checkpoint was
written had its default.
"""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from candlewick.config import RunConfig
from candlewick.config.tree import differences
from candlewick.errors import ConfigError

Effect = Literal["must match", "free", "warned of", "restarts best", "by content"]
_MAX_VALUE_CHARS = 200

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Rule:
    """What a change of a setting does, and why."""

    effect: Effect
    reason: str


_TEXT = Rule("by content", "text may have moved, or be named by the tokens that were made of it")
_TOKENIZER = Rule("must match", "the run has the tokenizer that was trained with it")
_TOKENS = Rule("must match", "it decides the tokens")
_ORDER = Rule("must match", "it decides the order of the rows, in which the run has a place")
_MACHINE = Rule("free", "it changes where and how fast, not what is computed")
_REPORT = Rule("free", "it changes what is reported and kept")
_ROUNDING = Rule("warned of", "numbers are rounded otherwise")
_LEARNING = Rule("warned of", "the next updates are made with it")
RULES: dict[str, Rule] = {
    "model": Rule("must match", "the weights are those of this model"),
    "model.attn_dropout": _LEARNING,
    "model.residual_dropout": _LEARNING,
    "tokenizer": Rule("by content", "the run has the tokenizer of its checkpoint; another one is refused"),
    **dict.fromkeys(("tokenizer.vocab_size", "tokenizer.min_frequency"), _TOKENIZER),
    **dict.fromkeys(("tokenizer.max_train_bytes", "tokenizer.max_train_lines"), _TOKENIZER),
    "data": _TOKENS,
    **dict.fromkeys(("data.train_shards", "data.mixture", "data.validation_sets"), _TEXT),
    **dict.fromkeys(("data.validation_shards", "data.prepared", "data.prepared_from"), _TEXT),
    "data.max_tokens": Rule("by content", "the text behind what the run has read may be prepared too"),
    **dict.fromkeys(("data.cache_dir", "data.num_workers"), _MACHINE),
    **dict.fromkeys(("data.sequence_length", "data.packing", "data.order", "data.shuffle_buffer_size"), _ORDER),
    "data.document_mask": Rule("restarts best", "losses with and without it differ"),
    "data.max_repetitions": Rule("free", "it bounds the length of the run"),
    **dict.fromkeys(("data.global_batch_size", "data.global_batch_tokens", "data.batch_ramp"), _LEARNING),
    "data.micro_batch_size": Rule(
        "warned of", "it decides how sums are rounded, and without a global batch the rows"
    ),
    "objective": _LEARNING,
    "optimizer": _LEARNING,
    "optimizer.algorithm": Rule("must match", "another algorithm has another state"),
    "optimizer.normuon_beta2": Rule("must match", "the second moments are a part of the state"),
    "optimizer.ema_decay": Rule("must match", "the averages are a part of the state"),
    "scheduler": _LEARNING,
    **{
        f"scheduler.total_{unit}": Rule("free", "a run may be made longer or shorter")
        for unit in ("steps", "tokens", "epochs", "seconds")
    },
    "runtime": _REPORT,
    "runtime.seed": _ORDER,
    **dict.fromkeys(("runtime.device", "runtime.recompute", "runtime.deterministic"), _MACHINE),
    **dict.fromkeys(("runtime.precision", "runtime.tf32"), _ROUNDING),
    "runtime.max_nonfinite_steps": Rule("free", "it bounds the updates that are skipped"),
    "runtime.checkpoint.init_from": Rule("must match", "a run keeps the checkpoint that it once started from"),
    "runtime.evaluation.max_tokens": Rule("restarts best", "losses on more and on less text differ"),
}


@dataclass(frozen=True, slots=True)
class Change:
    """A setting that differs from the checkpoint's."""

    key: str
    before: object
    after: object

    @property
    def rule(self) -> Rule:
        """Return the rule of the setting."""
        return rule_of(self.key)

    def __str__(self) -> str:
        before, after = (str(value)[:_MAX_VALUE_CHARS] for value in (self.before, self.after))
        return f"{self.key} (was {before}, is {after})"


def rule_of(key: str) -> Rule:
    """Return the rule of a setting, `a.b.c` or `a.b[0].c`: that of its key or of the nearest section around it."""
    while key not in RULES:
        key = key.rpartition("[" if key.endswith("]") else ".")[0]
    return RULES[key]


def changes(saved: RunConfig, config: RunConfig) -> list[Change]:
    """Return the settings of a run that differ from those of its checkpoint."""
    # null is the context of the model, which may be written out
    rows = [each.replaced(data={"sequence_length": each.sequence_length}) for each in (saved, config)]
    sides = differences(*rows).items()
    changed = [Change(key, values.get("first"), values.get("second")) for key, values in sides]
    # null is the number of rows that the tokenizer needs; another one does not fit the weights, which is told then
    return [c for c in changed if c.key != "model.vocab_size" or None not in (c.before, c.after)]


def apply_table(saved: RunConfig, config: RunConfig, folder: Path) -> None:
    """Log each change. Raises ConfigError that names all that must match the checkpoint in `folder`."""
    changed = changes(saved, config)
    if refused := [change for change in changed if change.rule.effect == "must match"]:
        raise ConfigError(
            f"{folder} was written with other settings: {', '.join(map(str, refused))}",
            "put them back, or choose another --run-dir for a run of its own; docs/resume.md lists what is free",
        )
    for change in changed:
        if change.rule.effect != "by content":
            level = logging.INFO if change.rule.effect == "free" else logging.WARNING
            logger.log(level, "the run goes on with another %s: %s", change, change.rule.reason)
