"""Named or listed datasets of the Hub are downloaded one after another, each as text shards.

    - {name: wiki, source: "hf://datasets/wikimedia/wikipedia@main/20231101.en", take: 100000}
    - {name: code, source: "hf://datasets/bigcode/the-stack-dedup/data/python", text_field: content}

Each becomes OUTPUT/name (`data.shards.write`), unless it is there; OUTPUT/download_manifest.json lists all.
"""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError

from candlewick.artifacts.build import ProgressCallback
from candlewick.artifacts.manifest import (
    MANIFEST,
    Manifest,
    first_problem,
    make_directory,
    read_bounded,
    replace_durable,
)
from candlewick.config import DataConfig, Section
from candlewick.config.yaml import load_foreign
from candlewick.data.shards.write import Outputs, ShardSettings, write_text_shards
from candlewick.errors import CandlewickError, ConfigError, RunInterrupted
from candlewick.hub import SCHEME, parse_uri

DOWNLOAD_MANIFEST = "download_manifest.json"


class Dataset(Section):
    """A dataset to download."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][\w.-]*$")]  # of its folder
    source: str  # hf://datasets/OWNER/NAME@REVISION/path, or files of this machine
    split: str = "train"
    text_field: str = "text"
    take: Annotated[int, Field(ge=1)] | None = None  # at most so many documents; null: all


_STACK = "hf://datasets/bigcode/the-stack-dedup/data"
DATASETS = {
    dataset.name: dataset
    for dataset in (
        Dataset(name="fineweb", source="hf://datasets/HuggingFaceFW/fineweb/sample/10BT"),
        Dataset(name="fineweb-edu", source="hf://datasets/HuggingFaceFW/fineweb-edu/sample/10BT"),
        Dataset(name="openwebtext", source="hf://datasets/Skylion007/openwebtext"),
        Dataset(name="wikipedia", source="hf://datasets/wikimedia/wikipedia/20231101.en"),
        Dataset(name="pg19", source="hf://datasets/emozilla/pg19"),
        Dataset(name="tinystories", source="hf://datasets/roneneldan/TinyStories/data/train-*"),
        *(
            Dataset(name=f"the-stack-{language}", source=f"{_STACK}/{language}", text_field="content")
            for language in ("python", "rust", "javascript", "java", "go")
        ),
    )
}
"""Datasets of the Hub by name. The Stack asks for its terms to be accepted first."""


@dataclass(frozen=True, slots=True)
class FetchResult:
    """The result of one download: the manifest of its folder, or the problem."""

    dataset: Dataset
    manifest: Manifest | None
    reused: bool = False
    problem: str | None = None


def find_datasets(sources: Sequence[str]) -> list[Dataset]:
    """Return the datasets of names, addresses and list files. Raises ConfigError, DataError for an address."""
    datasets: list[Dataset] = []
    for source in sources:
        if source in DATASETS:
            datasets.append(DATASETS[source])
        elif source.startswith(SCHEME):
            address = parse_uri(source)
            name = address.name.rpartition("/")[2].lstrip("._-") or "dataset"
            datasets.append(Dataset(name=name, source=source))
        else:
            datasets += _read_list(Path(source))
    names = [dataset.name for dataset in datasets]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(f"two datasets are called {repeated[0]!r}", "give each a name of its own")
    return datasets


def _read_list(path: Path) -> list[Dataset]:
    if not path.is_file():
        names = ", ".join(DATASETS)
        raise ConfigError(f"{path} is not a file, an address, or a known dataset", f"known ones are {names}")
    try:
        return TypeAdapter(list[Dataset]).validate_json(json.dumps(load_foreign(read_bounded(path).decode())))
    except ValidationError as error:
        raise ConfigError(f"{path}: {first_problem(error)}", "write name and source") from None
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise ConfigError(
            f"{path} is not a list of datasets: {' '.join(str(error).split())[:200]}",
            "write a YAML list of name and source",
        ) from None


def download_datasets(
    datasets: Sequence[Dataset],
    output: Path,
    shards: ShardSettings | None = None,
    *,
    ahead: int = 1,
    progress: ProgressCallback | None = None,
) -> list[FetchResult]:
    """Download all datasets into folders below `output`; write the download manifest. Raises RunInterrupted."""
    results: list[FetchResult] = []
    for dataset in datasets:
        config = DataConfig(text_field=dataset.text_field, documents="line")
        settings = replace(shards or ShardSettings(), take=dataset.take, split=dataset.split)
        outputs = Outputs(output / dataset.name, output / f"{dataset.name}.val")  # nothing is held out
        try:
            manifests, reused = write_text_shards(
                [dataset.source], outputs, settings, config, ahead=ahead, progress=progress
            )
            results.append(FetchResult(dataset, manifests[0], reused))
        except RunInterrupted:
            raise
        except CandlewickError as error:
            results.append(FetchResult(dataset, None, problem=str(error)))
    rows = {row["name"]: row for row in _read_downloads(output)}
    for name, manifest in ((result.dataset.name, result.manifest) for result in results):
        if manifest is not None:
            rows.pop(name, None)  # moves to the end
            rows[name] = {
                "name": name,
                "source": manifest.details["dataset"],
                "id": manifest.id,
                "files": len(manifest.files),
                "documents": manifest.details["total_lines"],
            }
    downloads = {
        "download_timestamp": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "datasets": list(rows.values()),
        "total_files": sum(row["files"] for row in rows.values()),
        "output_directory": str(output.absolute()),
    }
    make_directory(output)
    replace_durable(output / DOWNLOAD_MANIFEST, json.dumps(downloads, indent=1).encode())
    return results


def _read_downloads(output: Path) -> list[dict[str, Any]]:
    """Return the rows of the download manifest whose datasets are still there."""
    try:
        rows = json.loads(read_bounded(output / DOWNLOAD_MANIFEST))["datasets"]
        return [row for row in rows if row["files"] >= 0 and (output / row["name"] / MANIFEST).is_file()]
    except (OSError, ValueError, KeyError, TypeError):
        return []
