"""Token shards on disk, format version 1: the tokens of a text, and where its documents end.

    dataset/
      manifest.json               kind "tokens"; written last, so that a folder without it is not finished
      tokenizer/tokenizer.json    and tokenizer_config.json
      shards/train-00000.bin      the token ids, headerless, little-endian: uint16, or uint32 beyond 65,536 ids
      shards/train-00000.idx      uint64, little-endian: the exclusive end of each document that ends in the shard
      shards/train-00000.msk      of chats only: one byte per token, 1: it counts as a target, 0: it does not
      shards/00000.json           receipt of the task that wrote the shards of that number

Each document begins with the delimiter, which text can never produce. A document may go on in the next shard. A
headerless .bin with .idx beside it is what nanoGPT, OLMo-core and datatrove read as it is.

`details` of the manifest lists tokens, documents and bytes of UTF-8 text per split and shard. A dataset that ends
before its text says in `next` where. One that goes on there names the former, which lies beside it, in `before`.
"""

import logging
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Annotated, Any, Self

import numpy as np
from numpy.typing import DTypeLike, NDArray
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from candlewick.artifacts.manifest import (
    MANIFEST,
    Manifest,
    canonical_json,
    file_states,
    first_problem,
    json_sha256,
    read_manifest,
    replace_durable,
    verify,
)
from candlewick.data.text.file_ranges import SPLITS, Split
from candlewick.data.tokens.maps import FolderHold, MappedFiles, require_readable
from candlewick.errors import ArtifactError, DataError

KIND = "tokens"
VERSION = 2
READABLE_VERSIONS = (1, 2)
_FIX = "prepare it again"
_ALWAYS_HASHED_BYTES = 4 << 30  # about 3 seconds; larger datasets are hashed once per machine
_Count = Annotated[int, Field(strict=True, ge=0)]
Tokens = NDArray[np.uint16 | np.uint32]
Indices = NDArray[np.int64]
logger = logging.getLogger(__name__)


def token_dtype(vocab_size: int) -> np.dtype[np.uint16 | np.uint32]:
    """Return the stored type of ids below `vocab_size`."""
    return np.dtype("<u2") if vocab_size <= 1 << 16 else np.dtype("<u4")


@dataclass(frozen=True, slots=True)
class Shard:
    """One shard in the manifest of its dataset."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    name: str
    split: Split
    tokens: Annotated[int, Field(strict=True, ge=1)]
    documents: _Count  # that end in the shard
    text_bytes: _Count  # of a chat: of its answers
    max_id: _Count
    targets: _Count | None = None  # tokens that count as targets, as .msk says; None: all, there is no .msk

    def __post_init__(self) -> None:
        if self.targets is None and self.text_bytes == 0:
            raise ValueError(f"{self.name}: text_bytes=0")


def is_token_dataset(path: Path) -> bool:
    """Return whether a folder holds prepared tokens, not text."""
    manifest = path / MANIFEST
    if not manifest.is_file():
        return False
    status = manifest.stat()
    return _is_token_dataset(path, status.st_ino, status.st_mtime_ns)


@lru_cache
def _is_token_dataset(path: Path, *_state: int) -> bool:
    """Read a manifest: a start asks some five times about each, and a large one takes a second."""
    try:
        return read_manifest(path).kind == KIND
    except ArtifactError as error:
        logger.info("%s is taken for text: %s", path, error.problem)
        return False


@dataclass(frozen=True)
class TokenSplit:
    """The shards of one split as one array of `num_tokens` tokens, mapped into memory where they are read."""

    name: str
    dataset_id: str
    shards: MappedFiles | tuple[Tokens, ...]
    shard_starts: tuple[int, ...]  # of each shard in the split
    num_tokens: int
    num_bytes: int  # of UTF-8 text; of a chat, of its answers
    delimiter_id: int = 0
    document_ends: (
        MappedFiles | tuple[NDArray[np.uint64], ...]
    ) = ()  # of each shard, exclusive, from the start of the shard
    masks: MappedFiles | tuple[NDArray[np.uint8], ...] | None = (
        None  # of each shard: 1 if the token counts as a target
    )
    masked_tokens: int = 0  # that do not count as targets
    before: "TokenSplit | None" = None  # of the same text, which this one goes on behind

    @property
    def parts(self) -> tuple["TokenSplit", ...]:
        """The splits of one text, in order; this one is the last."""
        return (*(self.before.parts if self.before else ()), self)

    @property
    def num_documents(self) -> int:
        """The number of documents that end in the split."""
        ends = self.document_ends
        return sum(ends.lengths if isinstance(ends, MappedFiles) else map(len, ends))

    @property
    def num_targets(self) -> int:
        """The number of tokens that count as targets; they stand for `num_bytes` of text."""
        return self.num_tokens - self.masked_tokens

    def read_tokens(self, start: int, length: int) -> Tokens:
        """Return a copy of `length` tokens from `start` on; after the last token comes the first."""
        parts: list[Tokens] = []
        while length or not parts:
            start %= self.num_tokens
            number = bisect_right(self.shard_starts, start) - 1
            first, shard = start - self.shard_starts[number], self.shards[number]
            tokens = shard[first : first + length]
            require_readable(shard, [first], tokens.size)
            parts.append(tokens)
            start, length = start + tokens.size, length - tokens.size
        return parts[0].copy() if len(parts) == 1 else np.concatenate(parts)


@dataclass(frozen=True)
class TokenDataset:
    """A text as tokens: its splits, and the tokenizer that encoded it."""

    folder: Path
    id: str
    manifest: Manifest
    vocab_size: int
    shards: list[Shard]
    _splits: Mapping[str, TokenSplit]
    before: "TokenDataset | None" = None  # of the same text, which this one goes on behind

    @classmethod
    def open(cls, folder: Path, *, tokenizer_sha256: str | None = None, rehash: bool = False) -> Self:
        """Verify and open a dataset; `rehash` reads every byte, even of a large dataset that was verified before.

        Raises ArtifactError for a file that is missing, changed or foreign, DataError for another tokenizer.
        """
        try:
            hold = FolderHold(folder)
        except OSError:
            read_manifest(folder, KIND, *READABLE_VERSIONS)  # says what is wrong with it
            raise
        manifest = read_manifest(folder, KIND, *READABLE_VERSIONS)
        sha256 = manifest.inputs.get("tokenizer")
        if tokenizer_sha256 is not None and sha256 != tokenizer_sha256:
            raise DataError(
                f"{folder} was prepared with tokenizer {str(sha256)[:12]}, not with {tokenizer_sha256[:12]}",
                "prepare the text again with this tokenizer, or use the one in its `tokenizer` folder",
            )
        verify_once(folder, manifest, rehash=rehash)
        vocab_size, shards = _parse_details(folder, manifest)
        splits = {name: _open_split(hold, name, shards, manifest) for name in SPLITS}
        before = _find_before(folder, manifest)
        former = before and cls.open(before, tokenizer_sha256=tokenizer_sha256, rehash=rehash)
        return cls(folder, manifest.id, manifest, vocab_size, shards, splits, former)

    @property
    def parts(self) -> tuple["TokenDataset", ...]:
        """The datasets of one text, in order; this one is the last."""
        return (*(self.before.parts if self.before else ()), self)

    def has_split(self, name: Split) -> bool:
        """Return whether a split holds tokens."""
        return any(part._splits[name].num_tokens for part in self.parts)

    def split(self, name: Split) -> TokenSplit:
        """Return a split: that of validation from the first part. Raises DataError if it holds no tokens."""
        split = self._splits[name]
        if self.before is not None and (name == "validation" or not split.num_tokens):
            return self.before.split(name)
        if not split.num_tokens:
            raise DataError(f"{self.folder} has no {name} tokens", "prepare it again with more text")
        return split if self.before is None else replace(split, before=self.before.split(name))


def _find_before(folder: Path, manifest: Manifest) -> Path | None:
    """Return the folder of the dataset that this one goes on behind. Raises ArtifactError if it is another one."""
    if "before" not in manifest.inputs:
        return None
    before = folder.parent / manifest.details["before"]["folder"]
    if before.parent != folder.parent or read_manifest(before, KIND, VERSION).id != manifest.inputs["before"]:
        raise ArtifactError(f"{before} is not the dataset that {folder} goes on behind", _FIX)
    return before


def verify_shards(dataset: TokenDataset) -> None:
    """Read every token and document end. Raises ArtifactError naming the shard with an impossible one."""
    for shard in dataset.shards:
        path = dataset.folder / f"shards/{shard.name}.bin"
        tokens = np.memmap(path, token_dtype(dataset.vocab_size), "r")
        document_ends = np.fromfile(path.with_suffix(".idx"), "<u8").astype(np.int64)
        if shard.targets is not None:
            mask = np.memmap(path.with_suffix(".msk"), np.uint8, "r")
            if mask.max() > 1 or np.count_nonzero(mask) != shard.targets:
                problem = f"should mark {shard.targets} tokens with 1, and the others with 0"
                raise ArtifactError(f"{path.with_suffix('.msk')} {problem}", _FIX)
        if int(tokens.max()) > shard.max_id:
            raise ArtifactError(
                f"{path} has id {int(tokens.max())}, its manifest says at most {shard.max_id}", _FIX
            )
        if (np.diff(document_ends, prepend=0) <= 0).any() or (document_ends > shard.tokens).any():
            raise ArtifactError(f"{path.with_suffix('.idx')} has document ends that are not in order", _FIX)


def _parse_details(folder: Path, manifest: Manifest) -> tuple[int, list[Shard]]:
    try:
        _require_shown(manifest.details)
        vocab_size: int = manifest.details["vocab_size"]
        shards = TypeAdapter(list[Shard]).validate_python(manifest.details["shards"])
        if len({shard.targets is None for shard in shards}) > 1:
            raise ValueError("some shards have masks, some have none")
        sizes = {entry.name: entry.bytes for entry in manifest.files}
        item_bytes = token_dtype(vocab_size).itemsize
        for shard in shards:
            file_bytes = {"bin": shard.tokens * item_bytes, "idx": shard.documents * 8}
            if shard.targets is not None:
                file_bytes["msk"] = shard.tokens
            for extension, size in file_bytes.items():
                name = f"shards/{shard.name}.{extension}"
                if sizes.get(name) != size:
                    raise ArtifactError(f"{folder / name} has another number of tokens than its manifest", _FIX)
            if shard.max_id >= vocab_size:
                raise ArtifactError(
                    f"{folder}/shards/{shard.name}.bin has id {shard.max_id}, the tokenizer has {vocab_size} ids",
                    _FIX,
                )
    except ValidationError as error:
        raise ArtifactError(f"{folder / MANIFEST}: {first_problem(error, 'details.shards')}", _FIX) from None
    except (KeyError, TypeError, ValueError) as error:
        raise ArtifactError(f"{folder / MANIFEST} is not that of a token dataset: {error!r}", _FIX) from None
    return vocab_size, shards


def _require_shown(details: Mapping[str, Any]) -> None:
    """Raise KeyError or TypeError unless the details have what readers and `data inspect` take from them."""
    bad_utf8, splits = details["bad_utf8"], details["splits"]
    counted = ("tokens", "documents", "text_bytes")
    numbers = [splits[name][key] for name in splits for key in counted]
    numbers += [details["vocab_size"], details["delimiter"]["id"], bad_utf8["sequences"]]
    numbers += details.get("left_out", {}).values()
    texts = [details["holdout"], *bad_utf8["examples"]]
    if (before := details.get("before")) is not None:
        numbers.append(before["tokens"])
        texts.append(before["folder"])
    if not all(type(number) is int for number in numbers) or not all(isinstance(text, str) for text in texts):
        raise TypeError("vocab_size, bad_utf8, holdout or splits")


def _open_split(hold: FolderHold, name: str, shards: list[Shard], manifest: Manifest) -> TokenSplit:
    shards = [shard for shard in shards if shard.split == name]
    names, tokens = [shard.name for shard in shards], [shard.tokens for shard in shards]
    is_masked = any(shard.targets is not None for shard in shards)

    def map_files(extension: str, lengths: list[int], dtype: DTypeLike) -> MappedFiles:
        return MappedFiles(hold, f"shards/{{}}.{extension}", names, lengths, dtype)

    return TokenSplit(
        name,
        manifest.id,
        map_files("bin", tokens, token_dtype(manifest.details["vocab_size"])),
        tuple(accumulate(tokens[:-1], initial=0)) if shards else (),
        num_tokens=sum(tokens),
        num_bytes=sum(shard.text_bytes for shard in shards),
        delimiter_id=manifest.details["delimiter"]["id"],
        document_ends=map_files("idx", [shard.documents for shard in shards], "<u8"),
        masks=map_files("msk", tokens, np.uint8) if is_masked else None,
        masked_tokens=sum(shard.tokens - (shard.targets or 0) for shard in shards) if is_masked else 0,
    )


def verify_once(folder: Path, manifest: Manifest, *, rehash: bool = False) -> None:
    """Verify sizes; verify hashes too if the dataset is small, else once per machine and state of the files."""
    is_small = sum(entry.bytes for entry in manifest.files) <= _ALWAYS_HASHED_BYTES
    stamp = None if rehash or is_small else stamp_path(folder, manifest)
    if stamp is None:
        verify(folder, manifest)
        return
    if stamp.exists():
        return
    logger.info("checking the hashes of %s, once on this machine", folder)
    verify(folder, manifest)
    try:
        stamp.parent.mkdir(parents=True, exist_ok=True)
        replace_durable(stamp, canonical_json({"folder": str(folder.resolve()), "id": manifest.id}))
    except OSError as error:
        logger.warning("%s cannot be written (%s): the hashes are checked again next time", stamp, error)


def stamp_path(folder: Path, manifest: Manifest) -> Path | None:
    """Return the file that says that files in this state were hashed; None without a home folder.

    Raises ArtifactError for a file that is missing or has another size.
    """
    try:
        checked = Path.home() / ".cache" / "candlewick" / "verified"
    except RuntimeError:
        return None
    return checked / f"{json_sha256([manifest.id, str(folder.resolve()), file_states(folder, manifest)])}.json"
