"""What a run was made of and started with, written into its folder for people and for later reports.

    RUN/run.json    {"run": id, "parameters": 22000000, "tokenizer": sha256, "text": {NAME: ...}, "starts": [...]}

Of each dataset: the sources as they were named (of the Hub with the commit), names, sizes and hashes of the files,
the counts of its splits. Of each start: the command line, time, step, program and machine.
"""

import json
import logging
import platform
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import torch

from candlewick.artifacts.manifest import json_sha256, provenance, read_bounded, replace_durable
from candlewick.data.tokens.dataset import TokenDataset
from candlewick.data.tokens.workers import count_cores
from candlewick.runs.history import RECORD
from candlewick.runs.prepare import PreparedRun
from candlewick.runs.sources import all_sources
from candlewick.train.plan import Resume, RunPlan

_MAX_STARTS = 100  # which are kept beside the first one
_TOKEN = re.compile(r"hf_\w{6,}")

logger = logging.getLogger(__name__)


def write_record(prepared: PreparedRun, plan: RunPlan) -> None:
    """Write `run.json`, or add a start to it. Raises OSError."""
    path, sources = plan.run_dir / RECORD, all_sources(plan.config.data)
    before = _read_starts(path) if isinstance(plan.start, Resume) else []
    content = {
        "run": plan.start.run,
        "parameters": plan.num_parameters,
        "tokenizer": plan.tokenizer.sha256,
        "text": {name: _describe(dataset, sources[name]) for name, dataset in prepared.datasets.items()},
        "starts": [*before[:1], *before[1:][1 - _MAX_STARTS :], _describe_start(plan)],
    }
    content["sha256"] = json_sha256(content)
    replace_durable(path, json.dumps(content, indent=1, ensure_ascii=False).encode() + b"\n")


def _describe(dataset: TokenDataset, sources: tuple[str, ...]) -> dict[str, Any]:
    manifest = dataset.manifest
    files = manifest.provenance.get("text", {})  # datasets of older versions have none
    described = {"sources": sources, "dataset": dataset.id, "splits": manifest.details["splits"], "files": files}
    if dataset.before is not None:
        described["before"] = _describe(dataset.before, sources)
    return described


def _describe_start(plan: RunPlan) -> dict[str, Any]:
    program = Path(sys.argv[0]).name
    words = ["candlewick" if program == "__main__.py" else program, *sys.argv[1:]]
    command = _TOKEN.sub("hf_...", shlex.join(words)).encode(errors="backslashreplace").decode()
    machine = {"device": str(plan.device.device), "cores": count_cores(), "processor": platform.machine()}
    return {"step": plan.state.step, "command": command, **provenance(torch=torch.__version__, **machine)}


def _read_starts(path: Path) -> list[Any]:
    """Return the starts that a record lists; those of a damaged one are given up, with a warning."""
    try:
        content = json.loads(read_bounded(path))
        sha256 = content.pop("sha256")
        starts = content["starts"]
        if sha256 == json_sha256(content) and isinstance(starts, list):
            return starts
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError, AttributeError, TypeError, RecursionError):
        pass
    logger.warning("%s was damaged or edited: the earlier starts of the run are not in it any more", path)
    return []
