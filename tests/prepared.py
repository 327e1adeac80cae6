"""Run single stages of a run in tests, without a command line and without a lock."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from candlewick.artifacts.manifest import MANIFEST, Manifest
from candlewick.checkpoint.open import Checkpoint
from candlewick.config import DataConfig, RunConfig
from candlewick.data.text.corpus import Corpus
from candlewick.data.text.file_ranges import FileRange
from candlewick.data.text.holdout import choose_holdout, hold_tails
from candlewick.data.tokens.dataset import TokenSplit
from candlewick.data.tokens.encode import START, Task
from candlewick.data.tokens.maps import MappedFiles
from candlewick.data.tokens.plan import group_files, make_task
from candlewick.data.tokens.prepare import EncodeJob
from candlewick.data.tokens.prepare import prepare_tokens as prepare_job
from candlewick.runs.complete import complete_plan, open_training_data
from candlewick.runs.prepare import PreparedRun, prepare_run
from candlewick.runs.resolve import Request, resolve
from candlewick.tokenizer.bpe import Tokenizer
from candlewick.train.build import build
from candlewick.train.plan import RunPlan, TrainingData
from candlewick.train.trainer import Sampler, Trainer

NOWHERE = Path("no-run-folder")


def newest_checkpoint(directory: Path) -> Path:
    """Return the newest whole checkpoint of a folder of them."""
    return Checkpoint.newest(directory, need={"weights", "optimizer"}).folder


def prepare(config: RunConfig, run_dir: Path = NOWHERE, request: Request | None = None) -> PreparedRun:
    """Prepare the text of a config in its cache."""
    return prepare_run(resolve(config, run_dir, request or Request()))


def open_data(config: RunConfig) -> TrainingData:
    """Open the splits that a run with this config would read."""
    return open_training_data(prepare(config))


def plan_run(config: RunConfig, run_dir: Path = NOWHERE, *, resume: bool = False) -> RunPlan:
    """Decide a run; with `resume` it goes on from the newest checkpoint in its folder."""
    return complete_plan(prepare(config, run_dir, Request(resume="required" if resume else "never")))


def build_trainer(
    config: RunConfig, run_dir: Path, *, resume: bool = False, sampler: Sampler | None = None
) -> Trainer:
    """Build what `candlewick train` runs."""
    return build(plan_run(config, run_dir, resume=resume), sampler)


def dataset_folder(split: TokenSplit) -> Path:
    """Return the folder of the token dataset whose memory-mapped shards a split reads."""
    assert isinstance(split.shards, MappedFiles)
    return split.shards.hold.folder


def prepare_tokens(
    config: DataConfig, tokenizer: Tokenizer | Path, output: Path, *, hold_out: bool = True, **settings: Any
) -> tuple[Manifest, bool]:
    """Make the token dataset of a config's text, with a tokenizer or the folder of one."""
    loaded = Tokenizer.load(tokenizer) if isinstance(tokenizer, Path) else tokenizer
    job = EncodeJob.from_config(config, loaded)
    return prepare_job(replace(job, hold_out=job.hold_out and hold_out), output, **settings)


def plan_tasks(corpus: Corpus, config: DataConfig, *, hold_out: bool = True, key: str = "0" * 64) -> list[Task]:
    """Return the tasks of a text, as its preparation makes them of files that are no large documents."""
    share, holdout = config.validation_fraction, choose_holdout([corpus]) if hold_out else "given"
    tails = hold_tails([corpus], share).ranges if holdout == "tails" else {}
    split = None if holdout == "hash" else "train"
    groups = group_files(
        enumerate(corpus.files),
        lambda file: tails.get(file) or (FileRange(file, split=split),),
        corpus,
        config.shard_text_bytes,
        START,
        0,
    )
    return [make_task(i, group, corpus.reading, share, key) for i, group in enumerate(groups) if group is not None]


def edit_manifest(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the JSON of a manifest, as if an older version had written it so: without a hash of itself."""
    path = folder / MANIFEST
    content = json.loads(path.read_bytes())
    del content["sha256"]
    change(content)
    path.write_text(json.dumps(content))
