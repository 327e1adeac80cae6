"""Text + tokenizer -> a token dataset: in parallel, restartable, and not again if it is up to date.

    corpus --plan--> tasks --worker processes--> OUTPUT.partial/shards/ --manifest, rename--> OUTPUT/

A task that finished leaves a receipt, so work that was stopped at any moment, `kill -9` included, goes on with
the tasks that have none, and ends in the same dataset: its id depends on text, settings and tokenizer only, not
on the number of workers, the encoder or the machine. One process at a time works on an output; a second one
waits, and then finds it done.

Workers are spawned (never forked), import no torch, and are replaced from time to time, because the fast
encoders' caches grow with the text and give nothing back.
"""

import fcntl
import logging
import multiprocessing
import os
import platform
import signal
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from datetime import UTC, datetime
from functools import lru_cache
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from candlewick import __version__
from candlewick.artifacts import FileEntry, Manifest, publish, read_manifest, require_replaceable, verify
from candlewick.config import DataConfig
from candlewick.data.documents import BadText
from candlewick.data.encode import Receipt, ShardMaker, Target, Task, read_receipt, receipt_entry
from candlewick.data.holdout import Holdout
from candlewick.data.plan import plan, settings_of
from candlewick.data.sources import open_corpus
from candlewick.data.token_shards import KIND, SPLITS, VERSION, token_dtype
from candlewick.errors import ArtifactError, DataError, EnvironmentFault, Interrupted
from candlewick.tokenizer.bpe import DELIMITER, Tokenizer
from candlewick.tokenizer.encoder import ReferenceEncoder

_TASKS_PER_WORKER = 16

Progress = Callable[[int, int], None]  # bytes of text done and in all, about

_log = logging.getLogger(__name__)


def prepare(
    config: DataConfig, tokenizer: Path, output: Path, *, progress: Progress | None = None
) -> tuple[Manifest, bool]:
    """Make the token dataset `output` of a config's text; return its manifest, and whether it was there already.

    `tokenizer` is the folder of one. Raises DataError for text that cannot be used, ArtifactError if something
    else stands at `output`, Interrupted on SIGINT and SIGTERM; what is finished is kept for the next run.
    """
    corpus = open_corpus(config.train_shards, config)
    validation = open_corpus(config.validation_shards, config) if config.validation_shards else None
    loaded = Tokenizer.load(tokenizer)
    inputs = {
        "corpus": corpus.fingerprint,
        "tokenizer": loaded.sha256,
        "validation_corpus": None if validation is None else validation.fingerprint,
    }
    settings = asdict(settings_of(config))
    if (manifest := _up_to_date(output, inputs, settings)) is not None:
        return manifest, True
    with _alone(output.with_name(output.name + ".partial")) as partial:
        if (manifest := _up_to_date(output, inputs, settings)) is not None:
            with suppress(OSError):
                partial.rmdir()  # another process was faster
            return manifest, True
        for name in ("shards", "tokenizer"):
            (partial / name).mkdir(exist_ok=True)
        files = [replace(entry, name=f"tokenizer/{entry.name}") for entry in loaded.write(partial / "tokenizer")]
        holdout, tasks = plan(corpus, validation, loaded.sha256)
        target = Target(partial, loaded.vocab_size, loaded.delimiter_id)
        workers = config.num_workers or _count_cores()
        with _stoppable(partial):
            receipts, backend = _run(tasks, target, workers, progress)
        details = _details(target, holdout, receipts)
        _require_text(config, details)
        for task, receipt in zip(tasks, receipts, strict=True):
            files += [*receipt.files, receipt_entry(partial, task)]
        _sweep(partial, files)
        manifest = Manifest(KIND, VERSION, inputs, settings, tuple(files), details, _provenance(backend, workers))
        return publish(partial, output, manifest), False


def _count_cores() -> int:
    """Return the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _provenance(backend: str, workers: int) -> dict[str, Any]:
    return {
        "tool": f"candlewick {__version__}",
        "encoder": backend,
        "workers": workers,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _up_to_date(output: Path, inputs: dict[str, Any], config: dict[str, Any]) -> Manifest | None:
    """Return the manifest of `output` if it is what would be made. Raises ArtifactError if it is no dataset."""
    require_replaceable(output, KIND)
    if not output.exists() or not any(output.iterdir()):
        return None
    manifest = read_manifest(output, KIND)
    if (manifest.version, manifest.inputs, manifest.config) != (VERSION, inputs, config):
        return None
    try:
        verify(output, manifest, hashes=False)
    except ArtifactError as error:
        _log.warning("%s; it is prepared again", error)
        return None
    return manifest


@contextmanager
def _alone(partial: Path) -> Generator[Path]:
    """Make the folder and hold it locked; the kernel lets go of it when this process ends, however it ends."""
    while True:
        partial.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(partial, os.O_RDONLY)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                _log.info("another process works on %s: waiting for it", partial)
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            # what was locked may have been published, that is renamed, in the meantime
            if partial.exists() and os.path.samestat(os.fstat(descriptor), partial.stat()):
                yield partial
                return
        finally:
            os.close(descriptor)


@contextmanager
def _stoppable(partial: Path) -> Generator[None]:
    """Turn SIGINT and SIGTERM into `Interrupted`."""

    def stop(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    is_main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, stop) if is_main else None
    try:
        yield
    except KeyboardInterrupt:
        raise Interrupted(
            f"preparation stopped; the finished shards are kept in {partial}", "run it again to go on"
        ) from None
    finally:
        if is_main:
            signal.signal(signal.SIGTERM, before if before is not None else signal.SIG_DFL)


def _run(
    tasks: Sequence[Task], target: Target, workers: int, progress: Progress | None
) -> tuple[list[Receipt], str]:
    """Run the tasks that have no receipt yet; return all receipts in order, and the name of the encoder."""
    receipts = {task.index: receipt for task in tasks if (receipt := read_receipt(target.folder, task))}
    if receipts:
        _log.info("%d of %d tasks were finished before", len(receipts), len(tasks))
    todo = [task for task in tasks if task.index not in receipts]
    total = sum(task.text_bytes for task in tasks)
    done = total - sum(task.text_bytes for task in todo)
    backend = "none: all shards were there"

    def report(text_bytes: int) -> None:
        nonlocal done
        done += text_bytes
        if progress:
            progress(min(done, total), total)

    report(0)
    if len(todo) == 1:  # a process would take longer to start than most such tasks to run
        maker = ShardMaker(target)
        receipts[todo[0].index] = maker.run(todo[0], report)
        backend = maker.backend
    else:
        for task, receipt, backend in _run_in_processes(todo, target, workers):  # noqa: B007
            receipts[task.index] = receipt
            report(task.text_bytes)
        if backend == ReferenceEncoder.name:
            _log.warning("the text was encoded with the reference, which is some 40 times slower than fastokens")
    return [receipts[task.index] for task in tasks], backend


def _run_in_processes(tasks: Sequence[Task], target: Target, workers: int) -> Iterator[tuple[Task, Receipt, str]]:
    """Yield (task, receipt, name of the encoder) as they come, from processes that are replaced now and then."""
    wave = workers * _TASKS_PER_WORKER
    for first in range(0, len(tasks), wave):
        own = tasks[first : first + wave]
        pool = ProcessPoolExecutor(
            min(workers, len(own)), multiprocessing.get_context("spawn"), initializer=_start_worker
        )
        others = set(multiprocessing.active_children())
        try:
            futures = {pool.submit(_work, target, task): task for task in own}
            for future in as_completed(futures):
                yield futures[future], *future.result()
        except BrokenProcessPool:
            raise EnvironmentFault(
                "a worker process was killed, perhaps for want of memory; the finished shards are kept",
                "run it again to go on, with fewer --workers or a smaller data.shard_text_bytes",
            ) from None
        except BaseException:
            # what they were writing has no receipt yet, so they need not be waited for
            for process in set(multiprocessing.active_children()) - others:
                process.terminate()
            raise
        finally:
            pool.shutdown(cancel_futures=True)


def _start_worker() -> None:
    """Encode in one thread, leave Ctrl-C to the parent, and end with it even if it is killed."""
    os.putenv("RAYON_NUM_THREADS", "1")  # there is a process for each core; read when the first text is encoded
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logging.getLogger("candlewick").setLevel(logging.ERROR)  # the parent warns, once
    parent = multiprocessing.parent_process()

    def follow() -> None:
        if parent is not None:
            wait([parent.sentinel])
            os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def _work(target: Target, task: Task) -> tuple[Receipt, str]:
    maker = _maker(target)
    return maker.run(task), maker.backend


@lru_cache(maxsize=1)
def _maker(target: Target) -> ShardMaker:
    return ShardMaker(target)


def _details(target: Target, holdout: Holdout, receipts: Sequence[Receipt]) -> dict[str, Any]:
    shards = [shard for receipt in receipts for shard in receipt.shards]
    bad = BadText()
    for receipt in receipts:
        bad.merge(receipt.bad_utf8)
    if bad.documents:
        _log.warning(
            "%d bad UTF-8 sequences in %d documents, the first: %s", bad.sequences, bad.documents, bad.examples[0]
        )
    splits: dict[str, dict[str, int]] = {}
    for name in SPLITS:
        own = [shard for shard in shards if shard.split == name]
        splits[name] = {
            "tokens": sum(shard.tokens for shard in own),
            "documents": sum(shard.documents for shard in own),
            "text_bytes": sum(shard.text_bytes for shard in own),
        }
    return {
        "dtype": token_dtype(target.vocab_size).str,
        "vocab_size": target.vocab_size,
        "delimiter": {"id": target.delimiter_id, "token": DELIMITER, "where": "doc_start"},
        "specials_in_text": "plain",
        "holdout": holdout,
        "bad_utf8": asdict(bad),
        "splits": splits,
        "shards": [asdict(shard) for shard in shards],
    }


def _require_text(config: DataConfig, details: dict[str, Any]) -> None:
    if not details["splits"]["train"]["text_bytes"]:
        raise DataError(
            f"no training text came out of {', '.join(config.train_shards)[:200]}",
            "give more text, or text that is not empty or left out",
        )
    if not details["splits"]["validation"]["text_bytes"]:
        raise DataError(
            f"no validation text came out of {', '.join(config.validation_shards or config.train_shards)[:200]}",
            "give more text, raise data.validation_fraction, or set data.validation_shards",
        )


def _sweep(partial: Path, files: Sequence[FileEntry]) -> None:
    """Remove what runs with other settings, or killed ones, left behind."""
    known = {partial / entry.name for entry in files}
    for path in partial.rglob("*"):
        if path.is_file() and path not in known:
            path.unlink()
