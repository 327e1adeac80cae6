"""A checkpoint is opened once: the newest valid folder is taken, and each file that is needed is hashed.

    Checkpoint.open(path, need={"weights"})       a checkpoint, a folder of them, a run, a Hugging Face folder
    Checkpoint.newest(directory, need={"weights", "optimizer"})              for a run that resumes

Shapes come from `config.json`, never from the weights. A folder that another program wrote has no manifest: only
its weights and tokenizer are read.
"""

import json
import logging
from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, cast

from pydantic import ValidationError

from candlewick.artifacts.manifest import (
    MANIFEST,
    Manifest,
    canonical_json,
    file_sha256,
    first_problem,
    read_bounded,
)
from candlewick.checkpoint.generation import read_generation_config
from candlewick.checkpoint.huggingface import from_hf_config, from_hf_tensors
from candlewick.checkpoint.layout import OPTIMIZER, STATE, find_checkpoints, list_checkpoints, verify_checkpoint
from candlewick.checkpoint.safetensors import INDEX, MODEL, read_model, read_tensors
from candlewick.config import ModelConfig, RunConfig
from candlewick.config.tree import without_retired
from candlewick.errors import CheckpointError
from candlewick.model.flops import model_size
from candlewick.tokenizer.bpe import Tokenizer

if TYPE_CHECKING:
    from torch import Tensor

Content = Literal["weights", "optimizer"]

STATE_VERSION = 1
_STATE_TYPES = {"counters": dict, "loader": dict, "random": dict, "config": dict, "threads": int}
_FIX_OTHER_CHECKPOINT = "use another checkpoint"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Checkpoint:
    """One checkpoint folder, of which the needed files match their hashes."""

    folder: Path
    manifest: Manifest | None  # None: a Hugging Face folder that another program wrote

    @classmethod
    def open(cls, path: Path, need: Collection[Content]) -> Self:
        """Open a checkpoint folder, or the newest valid one of a folder or run. Raises CheckpointError."""
        return cls._open_newest_valid(find_checkpoints(path), need, path)

    @classmethod
    def newest(cls, directory: Path, need: Collection[Content], run: str | None = None) -> Self:
        """Open the newest valid checkpoint below a directory. Raises CheckpointError if there is none.

        With the id of a `run` also if it belongs to another one.
        """
        return cls._open_newest_valid(list_checkpoints(directory)[::-1], need, directory).require_run(run)

    def require_run(self, run: str | None) -> Self:
        """Return this checkpoint. Raises CheckpointError if it belongs to another run than `run`."""
        if run is not None and self.run not in (None, run):
            raise CheckpointError(
                f"{self.folder} belongs to run {self.run}, and is not one of run {run}",
                "set runtime.checkpoint.directory to the run's own folder, or start from it with --init-from",
            )
        return self

    @classmethod
    def _open_newest_valid(cls, folders: list[Path], need: Collection[Content], path: Path) -> Self:
        """Open the first folder whose files match their hashes; log each one that does not."""
        rejected: list[str] = []
        for folder in folders:
            try:
                return cls(folder, _verify_needed(folder, need))
            except CheckpointError as error:
                if len(folders) == 1 and folder == path:
                    raise
                logger.warning("%s", error.problem)
                rejected.append(folder.name)
        if rejected:
            raise CheckpointError(
                f"no valid checkpoint in {path}: {', '.join(rejected)} rejected", "restore one of them"
            )
        fix = "train without --resume, or give the right run folder"
        raise CheckpointError(f"no checkpoint in {path}", fix, path)

    @property
    def id(self) -> str:
        """Return the manifest's id; without a manifest the sha256 of the weights' file, or of their index."""
        if self.manifest is not None:
            return self.manifest.id
        return file_sha256(self.folder / (MODEL if (self.folder / MODEL).is_file() else INDEX))

    @property
    def run(self) -> str | None:
        """Return the id of the run that wrote it; None if it was imported, or is of format version 1."""
        return None if self.manifest is None else self.manifest.provenance.get("run")

    @cached_property
    def shape(self) -> tuple[ModelConfig, int]:
        """Read the model's settings and its vocabulary rows. Raises CheckpointError."""
        return from_hf_config(self.folder / "config.json")

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """Load the tokenizer, with the model's settings of generation."""
        return Tokenizer.load(self.folder).with_generation(self.generation)

    @property
    def generation(self) -> dict[str, Any]:
        """Read generation_config.json, without what a checkpoint writes anew. Raises CheckpointError."""
        return read_generation_config(self.folder)

    @property
    def state_file(self) -> Path:
        """Return the path of `state.json`."""
        return self.folder / _training_file(STATE, self.manifest)

    @cached_property
    def state(self) -> dict[str, Any]:
        """Read `state.json`. Raises CheckpointError if it cannot be read or an entry is missing or malformed."""
        path = self.state_file
        try:
            raw: object = json.loads(read_bounded(path))
            canonical_json(raw)  # refuses numbers that are not finite
        except (OSError, ValueError, RecursionError) as error:
            raise CheckpointError(f"{path} cannot be read: {error}", _FIX_OTHER_CHECKPOINT) from None
        if not isinstance(raw, dict):
            raise CheckpointError(f"{path} is not the state of a run", _FIX_OTHER_CHECKPOINT)
        state = cast(dict[str, Any], raw)
        if state.get("version") != STATE_VERSION:
            raise CheckpointError(
                f"{path} has format version {state.get('version')}, this program reads {STATE_VERSION}",
                "use the version of candlewick that wrote it",
            )
        if missing := sorted(key for key, kind in _STATE_TYPES.items() if not isinstance(state.get(key), kind)):
            raise CheckpointError(
                f"{path} lacks {', '.join(missing)} or has them in another form", _FIX_OTHER_CHECKPOINT
            )
        return state

    @cached_property
    def config(self) -> RunConfig | None:
        """Read the resolved config of the run that wrote it; None without `state.json`. Raises CheckpointError."""
        if not self.state_file.is_file():
            return None
        try:
            tree = without_retired(_translate_max_batches(self.state["config"]), logger.debug)
            return RunConfig.model_validate_json(canonical_json(tree))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            problem = first_problem(error) if isinstance(error, ValidationError) else str(error)
            raise CheckpointError(
                f"{self.state_file} holds settings that this version does not read: {problem}",
                "use the version of candlewick that wrote it",
            ) from None

    def weights(self) -> "dict[str, Tensor]":
        """Read the weights by parameter name. Raises CheckpointError for too few, or one that is not finite."""
        config, vocab_size = self.shape
        saved = read_model(self.folder)
        saved = {name: tensor for name, tensor in saved.items() if not name.endswith("rotary_emb.inv_freq")}
        tensors = from_hf_tensors(config, saved)
        if config.tie_word_embeddings:
            tensors.pop("lm_head.weight", None)
        needed, numbers = model_size(config, vocab_size).total, sum(tensor.numel() for tensor in tensors.values())
        if needed > numbers:  # before memory of the claimed size is allocated
            raise CheckpointError(
                f"{self.folder / MODEL} holds {numbers:,} numbers, the model of {self.folder / 'config.json'} has "
                f"{needed:,}",
                "use the configuration that the checkpoint was written with",
            )
        for name, tensor in tensors.items():
            if not tensor.isfinite().all():
                raise CheckpointError(
                    f"{self.folder / MODEL}: {name} is not finite everywhere: its run diverged",
                    "use an earlier one",
                )
        return tensors

    def optimizer(self) -> "dict[str, Tensor]":
        """Read the optimizer's state by "<parameter>.<state>". Raises CheckpointError."""
        return read_tensors(self.folder / _training_file(OPTIMIZER, self.manifest))


def _translate_max_batches(tree: dict[str, Any]) -> dict[str, Any]:
    """Return settings with max_tokens for max_batches, which in version 1 counted micro-batches."""
    runtime = tree.get("runtime", {})
    if "max_batches" not in (evaluation := dict(runtime.get("evaluation", {}))):
        return tree
    tokens, data = evaluation.pop("max_batches"), tree["data"]
    if tokens is not None:
        tokens *= data["micro_batch_size"] * (data["sequence_length"] or tree["model"]["max_position_embeddings"])
    return tree | {"runtime": runtime | {"evaluation": evaluation | {"max_tokens": tokens}}}


def _training_file(name: str, manifest: Manifest | None) -> str:
    """Return the name of a file that only training needs: in version 1 it lay beside the weights."""
    return Path(name).name if manifest is not None and manifest.version == 1 else name


def _verify_needed(folder: Path, need: Collection[Content]) -> Manifest | None:
    if not (folder / MANIFEST).is_file():
        return None
    if "optimizer" in need:
        return verify_checkpoint(folder)
    # a copy may lack the files that only training needs; state.json is small, so it is hashed if it is there
    states = [name for name in (STATE, Path(STATE).name) if not (folder / name).is_file()]
    return verify_checkpoint(folder, without=[OPTIMIZER, Path(OPTIMIZER).name, *states])
