"""Everything about a run that is decided before its text is prepared: start, text, tokenizer, shards.

    config, run folder, request --resolve--> PreparePlan --runs.prepare--> PreparedRun --runs.complete--> RunPlan

No file of the run is written: only a model of the Hub comes into its cache. Files are opened once. No torch is
imported.

A tokenizer is taken, in this order, from the settings, from a token dataset that is trained on, from the
checkpoint that a run starts from, from the run folder, from a folder that several runs share; else it is trained.
With a checkpoint it has to be the checkpoint's. Of the two folders, a tokenizer of another program is taken as it
is; one of Candlewick only if a request says so, and then one that was trained with other settings is an error.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Literal

from candlewick.checkpoint.layout import find_checkpoints, list_checkpoints
from candlewick.checkpoint.open import Checkpoint
from candlewick.config import DataConfig, RunConfig, TokenizerConfig
from candlewick.config.seal import read_run_id
from candlewick.data.rows.batches import BatchSchedule
from candlewick.data.text.corpus import Corpus
from candlewick.data.text.find import open_text
from candlewick.errors import CheckpointError, ConfigError
from candlewick.hub import SCHEME, HubRepo, HubUri, is_offline, open_repo
from candlewick.parallel.env import read_ranks
from candlewick.runs.sharding import Sharding, ShardJob, plan_shards
from candlewick.runs.sources import (
    dataset_tokenizer,
    encoding_tokenizer,
    open_tokenizer,
    text_sources,
    training_sources,
    without_lost_datasets,
)
from candlewick.runs.start import continue_run, inherit_model, open_parent
from candlewick.runs.tokenizer import holds_tokenizer, own_manifest
from candlewick.tokenizer.bpe import Tokenizer
from candlewick.train.budget import planned_steps, require_end
from candlewick.train.plan import Fresh, InitFrom, Resume, Start, checkpoint_directories
from candlewick.train.resume import apply_table

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Request:
    """The options of a command that are no settings."""

    resume: Literal["never", "if_available", "required"] | Path = "never"
    """never: a folder that holds a run is an error; a path: from that checkpoint of the run, not the newest."""
    keeps_data: bool = False
    """Prepared text and the tokenizer lie in the run folder; else in the cache, for other runs too."""
    skip_tokenizer: bool = False  # train no tokenizer: take the one that is there
    retrain_tokenizer: bool = False  # train the tokenizer anew, whatever is there
    shared_tokenizer: Path | None = None
    """A folder of several runs: its tokenizer is taken, or trained there, and copied to the run's folder."""
    sharding: Sharding | None = None  # write text as shards first; None: it is read where it is
    prepare_only: bool = False  # train nothing: another machine goes on with `candlewick train`


@dataclass(frozen=True, slots=True)
class TokenizerPlan:
    """The tokenizer of a run, and where it comes from."""

    tokenizer: Tokenizer | None  # None: one is trained
    reason: Literal["named", "existing", "trained"]  # named: by settings, a token dataset or a checkpoint
    source: Path | None
    """The folder or file of the tokenizer; None: it is trained in the cache, under a name made from its recipe."""
    copy_to: Path | None = None  # where the run keeps its own copy
    retrain: tuple[Path, ...] = ()  # folders of tokenizers that are removed first


@dataclass(frozen=True, slots=True)
class PreparePlan:
    """The decisions about a run whose text is not prepared yet."""

    config: RunConfig
    run_dir: Path
    start: Start
    batches: BatchSchedule  # as if the run were new
    tokenizer: TokenizerPlan
    texts: Mapping[str, Corpus] | None
    """Opened text by the name of the dataset that is made of it; None: in shards that are not written yet."""
    shard_jobs: Sequence[ShardJob] = ()  # shards of text that are written, or verified, first
    keeps_data: bool = False  # datasets lie in the run folder; else in `data.cache_dir`

    @property
    def folders(self) -> dict[str, Path] | None:
        """Return the datasets' folders; None: they lie in the cache, under names made from their recipes."""
        return {name: self.run_dir / name for name in text_sources(self.config.data)} if self.keeps_data else None


def resolve(config: RunConfig, run_dir: Path, request: Request) -> PreparePlan:
    """Decide everything about a run that is known before its text is prepared.

    The caller holds the run's lock. Raises ConfigError for settings that cannot be, CheckpointError, DataError,
    TokenizerError and MachineError for what cannot be opened.
    """
    config = without_lost_datasets(config)
    for name, folder in config.data.prepared.items():
        logger.info(
            "the tokens %s are read in the place of %s", folder, ", ".join(config.data.prepared_from[name])
        )
    init_from, newest = config.runtime.checkpoint.init_from, _find_newest(config, run_dir, request)
    if newest is not None:
        config, start = continue_run(config, newest)
    elif init_from is not None:
        config, start = open_parent(config, init_from)
    else:
        start = Fresh()
    tokenizer = _resolve_tokenizer(config, start, run_dir, request)
    if init_from is not None and start.checkpoint is not None and tokenizer.tokenizer is not None:
        config = inherit_model(config, start.checkpoint, tokenizer.tokenizer)
    _, world_size, _ = read_ranks()
    batches = BatchSchedule.from_config(config.data, config.sequence_length, world_size)
    require_end(config.scheduler)
    shard_jobs: tuple[ShardJob, ...] = ()
    if request.sharding is not None:
        if newest is not None and request.sharding.existing == "remake":
            raise ConfigError(f"{run_dir} holds a run on the shards there are", "choose another --experiment")
        data, shard_jobs = plan_shards(config.data, request.sharding)
        config = config.replaced(data=data)
    if not training_sources(config.data):
        raise ConfigError(
            "there is no text to train on",
            "set data.train_shards, for example [stories://]; orchestrate also takes --input PATH or --stream",
        )
    if newest is not None and newest.config is not None:
        config = without_lost_datasets(_with_former_budget(config, newest.config, batches))
    config = _with_token_budget(config, batches)
    texts = None if any(job.action == "write" for job in shard_jobs) else open_texts(config.data)
    plan = PreparePlan(config, run_dir, start, batches, tokenizer, texts, shard_jobs, request.keeps_data)
    if newest is not None:
        assert newest.config is not None, "a checkpoint of a run has one"
        apply_table(newest.config, config, newest.folder)
    return plan


def _find_newest(config: RunConfig, run_dir: Path, request: Request) -> Checkpoint | None:
    """Open the checkpoint that the run goes on from, if it does. Raises ConfigError for a run in the way."""
    directory, best = checkpoint_directories(config, run_dir)
    is_there = bool(list_checkpoints(directory))
    if not is_there and best is None and list_checkpoints(run_dir / "best"):
        directory, is_there = run_dir / "best", True  # of version 1, and stopped before its first regular save
    if not is_there and (run_dir / "config.yaml").is_file():
        _require_same_directory(run_dir, directory)
    if request.resume == "never" and is_there:
        raise ConfigError(f"{run_dir} holds a run already", "add --resume to go on, or choose another --run-dir")
    if request.resume == "never" or (request.resume == "if_available" and not is_there):
        return None
    run = read_run_id(run_dir / "config.yaml")
    if not isinstance(request.resume, Path):
        return Checkpoint.newest(directory, need={"weights", "optimizer"}, run=run)
    if request.resume.resolve().parent != directory.resolve():
        raise ConfigError(
            f"{request.resume} is no checkpoint of the run {run_dir}, whose checkpoints lie in {directory}",
            "give one of them to --resume, or start a new run from it with --init-from",
        )
    return Checkpoint.open(request.resume.resolve(), need={"weights", "optimizer"}).require_run(run)


def _require_same_directory(run_dir: Path, directory: Path) -> None:
    """Raise ConfigError if a run has its checkpoints in another folder than the settings say."""
    try:
        folder = find_checkpoints(run_dir)[0].parent
    except CheckpointError:
        return
    raise ConfigError(
        f"the checkpoints of {run_dir} lie in {folder}, its settings say {directory}",
        "put runtime.checkpoint.directory back, move them there, or choose another --run-dir",
    )


def rows_per_update(config: RunConfig) -> int:
    """Return the rows that each update of a run in one process reads, after its batch ramp."""
    return BatchSchedule.from_config(config.data, config.sequence_length, world_size=1).rows


def open_texts(data: DataConfig) -> dict[str, Corpus]:
    """Open every source that is text, by the name of its dataset; a repository of the Hub at one commit."""
    commits: dict[HubUri, str | None] = {}

    @cache
    def open_once(uri: HubUri) -> HubRepo:
        repo_uri = replace(uri, path="")
        repo = open_repo(replace(uri, revision=commits.get(repo_uri, uri.revision)))
        commits[repo_uri] = repo.uri.revision
        return repo

    training = training_sources(data)
    return {
        name: open_text(uris, data, None if name in training else "validation", open_once)
        for name, uris in text_sources(data).items()
    }


def _with_former_budget(config: RunConfig, former: RunConfig, batches: BatchSchedule) -> RunConfig:
    """Return the config with the `data.max_tokens` of the run so far, or a larger one if that was derived too."""
    limit = former.data.max_tokens
    if limit is None or config.data.max_tokens not in (None, limit):
        return config
    before, now = (_tokens_read(settings, batches) for settings in (former, config))
    may_grow = before == limit and now is not None and not is_offline()  # else what there is, is read again
    return config.replaced(data={"max_tokens": max(limit, now) if may_grow and now else limit})


def _tokens_read(config: RunConfig, batches: BatchSchedule) -> int | None:
    """Return the tokens that the schedule reads; None: it is no number of steps or tokens that ends it."""
    if config.scheduler.total_steps is None and config.scheduler.total_tokens is None:
        return None
    length = config.sequence_length
    steps = planned_steps(config.scheduler, batches, sequence_length=length, epoch_rows=1)
    assert steps is not None, "it has steps or tokens"
    return batches.rows_after(steps) * length


def _with_token_budget(config: RunConfig, batches: BatchSchedule) -> RunConfig:
    """Return the config with `data.max_tokens` set to what the schedule reads, if that is left open and known."""
    data = config.data
    is_streamed = any(uri.startswith(SCHEME) for uris in training_sources(data).values() for uri in uris)
    if not is_streamed or data.max_tokens is not None:
        return config
    if (tokens := _tokens_read(config, batches)) is None:
        if data.max_documents is not None:
            return config
        raise ConfigError(
            "text of the Hub has no end here: neither its size nor a number of steps or tokens is set",
            "set scheduler.total_steps or total_tokens, data.max_tokens, or data.max_documents",
        )
    logger.info("the run reads %d tokens: so many are prepared of text on the Hub", tokens)
    return config.replaced(data={"max_tokens": tokens})


def _resolve_tokenizer(config: RunConfig, start: Start, run_dir: Path, request: Request) -> TokenizerPlan:
    """Choose the tokenizer. Raises ConfigError for settings or a request that contradict what is there."""
    run_folder, shared, settings = run_dir / "tokenizer", request.shared_tokenizer, config.tokenizer
    folders = [folder for folder in (run_folder if request.keeps_data else None, shared) if folder is not None]
    if _names_own_tokenizer(settings, folders, request):
        settings = settings.replaced(tokenizer_json=None, vocab=None, merges=None, special_tokens=None)
    copy_to = None if shared is None else run_folder
    dataset = dataset_tokenizer(config.data)  # first: it says what is wrong if prepared tokens are gone
    named = settings.tokenizer_json or settings.vocab
    if named is not None and not named.exists() and (dataset is not None or isinstance(start, Resume)):
        logger.info("the tokenizer %s is gone: the run's own is taken", named)
        named, settings = None, TokenizerConfig()
    path = named or dataset
    source = start.checkpoint.folder if path is None and isinstance(start, InitFrom) else path
    if request.retrain_tokenizer and source is not None:
        raise ConfigError(f"--force-retrain-tokenizer, but that of {source} is given", "leave one of them out")
    if path is not None:
        tokenizer = open_tokenizer(settings) or Tokenizer.load(path)
        _require_same_tokenizer(encoding_tokenizer(tokenizer, config.data), path, start)
        if start.checkpoint is not None:
            tokenizer = tokenizer.with_generation(start.checkpoint.generation)
        return TokenizerPlan(tokenizer, "named", path, copy_to)
    if isinstance(start, InitFrom):
        return TokenizerPlan(start.checkpoint.tokenizer, "named", start.checkpoint.folder, copy_to)
    if isinstance(start, Resume):
        if request.retrain_tokenizer:  # a pod that restarts repeats its command
            logger.warning("--force-retrain-tokenizer is left out: the run in %s has its tokenizer", run_dir)
        kept = run_folder if holds_tokenizer(run_folder) else start.checkpoint.folder
        return TokenizerPlan(start.checkpoint.tokenizer, "existing", kept)
    if config.data.format == "tokens":
        raise ConfigError(
            "files of tokens do not say which tokenizer made them", "set tokenizer.tokenizer_json to it"
        )
    retrain = tuple(folders) if request.retrain_tokenizer else ()
    plan = None if retrain else _find_tokenizer(settings, folders, request)
    return plan or TokenizerPlan(None, "trained", folders[-1] if folders else None, copy_to, retrain)


def _names_own_tokenizer(settings: TokenizerConfig, folders: Sequence[Path], request: Request) -> bool:
    """Return whether settings name a tokenizer where this run is going to make it, perhaps under another name."""
    named = settings.tokenizer_json or settings.vocab
    if named is None or named in folders:
        return named is not None
    folder, shared = named.parent if named.suffix == ".json" else named, request.shared_tokenizer
    is_place = folder in folders or (shared is not None and folder.parent == shared.parent)
    return is_place and (request.retrain_tokenizer or not named.exists())


def _require_same_tokenizer(tokenizer: Tokenizer, path: Path, start: Start) -> None:
    """Raise ConfigError if the tokenizer of `path` is not the one of the checkpoint that a run starts from."""
    if isinstance(start, Fresh):
        return
    if isinstance(start, Resume):
        allowed = [start.tokenizer_sha256]
    else:  # the text may be chats, whose tokens come on top
        base = start.checkpoint.tokenizer
        allowed = [base.sha256, base.with_chat_tokens().sha256]
    if tokenizer.sha256 not in allowed:
        raise ConfigError(
            f"{path} has sha256 {tokenizer.sha256[:12]}, the tokenizer of {start.checkpoint.folder} has "
            f"{allowed[0][:12]}",
            "leave tokenizer.tokenizer_json null, and prepare token datasets with the checkpoint's tokenizer",
        )


def _find_tokenizer(settings: TokenizerConfig, folders: Sequence[Path], request: Request) -> TokenizerPlan | None:
    """Return the first tokenizer in the folders, if the request is to take one or another program wrote it.

    Raises ConfigError for one that was trained with other settings, and if none may be trained and none is there.
    """
    for folder in filter(holds_tokenizer, folders):
        manifest = own_manifest(folder)
        if manifest is not None and not (request.skip_tokenizer or request.shared_tokenizer):
            return None  # it is made again if its recipe is another one
        recorded = {} if manifest is None else manifest.config
        values = settings.model_dump(mode="json").items()
        if different := [f"{k}={recorded[k]}, not {v}" for k, v in values if recorded.get(k, v) != v]:
            problem = f"{folder} was trained with {'; '.join(different)}"
            raise ConfigError(problem, "give --force-retrain-tokenizer")
        return TokenizerPlan(Tokenizer.load(folder), "existing", folder, folders[0])
    if request.skip_tokenizer:
        where = " or ".join(map(str, folders))
        raise ConfigError(f"--skip-tokenizer, but there is none in {where}", "give --tokenizer-json PATH")
    return None
