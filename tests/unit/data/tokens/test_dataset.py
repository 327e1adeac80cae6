import os
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError
from tests.prepared import edit_manifest
from tests.token_splits import write_shard

from candlewick.artifacts.manifest import MANIFEST, Manifest, publish, read_manifest, staging
from candlewick.data.tokens import dataset as token_shards
from candlewick.data.tokens.dataset import (
    KIND,
    VERSION,
    Shard,
    TokenDataset,
    TokenSplit,
    is_token_dataset,
    token_dtype,
    verify_shards,
)
from candlewick.errors import ArtifactError, DataError

VOCAB = 300


def make_dataset(folder: Path, sizes=(10, 1, 25), vocab_size=VOCAB, **details) -> TokenDataset:
    """Training shards of these sizes, with tokens 0, 1, 2, ... and documents of 5; validation is one of 7."""
    dtype = token_dtype(vocab_size)
    with staging(folder) as aside:
        (aside / "shards").mkdir()
        files, shards, first = [], [], 0
        for i, size in enumerate([*sizes, 7]):
            tokens = np.arange(first, first + size).astype(dtype)
            first += size
            ends = np.append(np.arange(5, size, 5), size).astype(np.uint64)
            split = "validation" if i == len(sizes) else "train"
            shard = Shard(f"{split}-{i:05d}", split, size, ends.size, size * 4, int(tokens.max()))
            files += write_shard(aside, shard, [tokens[: size // 2], tokens[size // 2 :]], ends)
            shards.append(vars_of(shard))
        content = {
            "vocab_size": vocab_size,
            "shards": shards,
            "holdout": "hash",
            "delimiter": {"id": 0},
            **details,
        }
        content |= {"bad_utf8": {"sequences": 0, "examples": []}, "splits": {}}
        publish(aside, folder, Manifest(KIND, VERSION, {"tokenizer": "a" * 64}, {}, tuple(files), content, {}))
    return TokenDataset.open(folder)


def vars_of(shard: Shard) -> dict:
    return {name: getattr(shard, name) for name in Shard.__dataclass_fields__}


def test_dataset_reads_the_written_tokens(tmp_path):
    dataset = make_dataset(tmp_path / "ds")
    split = dataset.split("train")
    assert (split.num_tokens, split.num_bytes) == (36, 144)
    assert split.shard_starts == (0, 10, 11)
    assert split.dataset_id == dataset.id == read_manifest(tmp_path / "ds").id
    assert split.read_tokens(0, 36).tolist() == list(range(36))
    assert dataset.split("validation").read_tokens(0, 7).tolist() == list(range(36, 43))
    assert [shard.tokens for shard in dataset.shards] == [10, 1, 25, 7]
    assert not list((tmp_path / "ds" / "shards").glob("*.tmp"))


def test_shard_files_are_headerless_and_little_endian(tmp_path):
    make_dataset(tmp_path / "ds")
    shards = tmp_path / "ds" / "shards"
    assert (shards / "train-00001.bin").read_bytes() == b"\x0a\x00"
    assert (shards / "train-00000.idx").read_bytes() == b"\x05" + bytes(7) + b"\x0a" + bytes(7)


def test_dataset_stores_large_vocabularies_in_four_bytes(tmp_path):
    assert token_dtype(1 << 16) == np.dtype("<u2")
    assert token_dtype((1 << 16) + 1) == np.dtype("<u4")
    dataset = make_dataset(tmp_path / "ds", vocab_size=70_000)
    assert (tmp_path / "ds" / "shards" / "train-00001.bin").read_bytes() == b"\x0a\x00\x00\x00"
    assert dataset.split("train").read_tokens(0, 3).dtype == np.uint32


@given(start=st.integers(0, 200), length=st.integers(0, 120))
def test_window_wraps_around_the_end_of_a_split(start, length):
    shards = tuple(np.arange(a, b, dtype=np.uint16) for a, b in [(0, 10), (10, 11), (11, 36)])
    split = TokenSplit("train", "id", shards, (0, 10, 11), 36, 1)
    assert split.read_tokens(start, length).tolist() == [(start + i) % 36 for i in range(length)]


def test_open_refuses_another_tokenizer_with_both_hashes(tmp_path):
    make_dataset(tmp_path / "ds")
    assert TokenDataset.open(tmp_path / "ds", tokenizer_sha256="a" * 64).vocab_size == VOCAB
    with pytest.raises(
        DataError, match=r"was prepared with tokenizer a{12}, not with b{12} .*prepare the text again"
    ):
        TokenDataset.open(tmp_path / "ds", tokenizer_sha256="b" * 64)


def test_open_refuses_a_folder_without_manifest(tmp_path):
    with pytest.raises(ArtifactError, match=r"has no manifest\.json: it is not a finished tokens"):
        TokenDataset.open(tmp_path)


def test_open_detects_every_flipped_bit_and_truncation(tmp_path):
    make_dataset(tmp_path / "ds")
    rng = random.Random(0)
    paths = sorted((tmp_path / "ds" / "shards").iterdir())
    for _ in range(100):
        path = rng.choice(paths)
        good = path.read_bytes()
        at = rng.randrange(len(good))
        bad = bytearray(good)
        bad[at] ^= 1 << rng.randrange(8)
        for content in (bytes(bad), good[:at]):
            path.write_bytes(content)
            with pytest.raises(ArtifactError, match=path.name):
                TokenDataset.open(tmp_path / "ds")
        path.write_bytes(good)
    TokenDataset.open(tmp_path / "ds")


def test_open_names_a_missing_or_foreign_shard(tmp_path):
    make_dataset(tmp_path / "ds")
    make_dataset(tmp_path / "other", sizes=(10, 1, 26))
    shards = tmp_path / "ds" / "shards"
    good = (shards / "train-00002.bin").read_bytes()
    (shards / "train-00002.bin").unlink()
    with pytest.raises(ArtifactError, match=r"train-00002\.bin is missing"):
        TokenDataset.open(tmp_path / "ds")
    (shards / "train-00002.bin").write_bytes(good[::-1])
    with pytest.raises(ArtifactError, match=r"train-00002\.bin has sha256 .* its content changed"):
        TokenDataset.open(tmp_path / "ds")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m["details"].pop("shards"), r"not that of a token dataset: KeyError\('shards'\)"),
        (lambda m: m["details"]["shards"][0].pop("tokens"), r"details\.shards\.0\.tokens: Field required"),
        (lambda m: m["details"].update(vocab_size="400"), "not that of a token dataset: TypeError"),
        (lambda m: m["details"].update(shards=3), "json: details.shards: Input should be a valid list"),
        (
            lambda m: m["details"]["shards"][0].update(name="../../x"),
            r"shards/\.\./\.\./x\.bin has another number of tokens",
        ),
        (lambda m: m["details"]["shards"][0].update(tokens=11), "has another number of tokens"),
        (lambda m: m["details"]["shards"][0].update(documents=3), "has another number of tokens"),
        (
            lambda m: m["details"]["shards"][1].update(tokens=0),
            r"shards\.1\.tokens: Input should be",
        ),
        (
            lambda m: m["details"]["shards"][0].update(text_bytes="a"),
            r"shards\.0\.text_bytes: Input should be",
        ),
        (lambda m: m["details"]["shards"][0].update(text_bytes=0), "train-00000: text_bytes=0"),
        (
            lambda m: m["details"]["shards"][0].update(documents=2.0),
            r"shards\.0\.documents: Input should be",
        ),
        (
            lambda m: m["details"]["shards"][0].update(max_id=True),
            r"shards\.0\.max_id: Input should be",
        ),
        (
            lambda m: m["details"]["shards"][0].update(split="test"),
            r"shards\.0\.split: Input should be",
        ),
        (lambda m: m["details"].pop("holdout"), r"not that of a token dataset: KeyError\('holdout'\)"),
        (
            lambda m: m["details"]["bad_utf8"].pop("examples"),
            r"not that of a token dataset: KeyError\('examples'\)",
        ),
        (lambda m: m["details"].update(splits={"train": {"tokens": 3}}), "not that of a token dataset: KeyError"),
        (lambda m: m["details"].update(splits=5), "not that of a token dataset"),
        (lambda m: m["details"].update(vocab_size=35), r"train-00002\.bin has id 35, the tokenizer has 35 ids"),
        (lambda m: m["details"]["shards"][0].update(targets=3), "some shards have masks, some have none"),
        (lambda m: m["details"].update(holdout=3), "not that of a token dataset: TypeError"),
        (lambda m: m["details"]["delimiter"].update(id="0"), "not that of a token dataset: TypeError"),
        (lambda m: m["details"].update(left_out={"duplicates": "0"}), "not that of a token dataset: TypeError"),
        (lambda m: m["details"].update(vocab_size=20), r"train-00002\.bin has id 35, the tokenizer has 20 ids"),
    ],
)
def test_open_refuses_a_manifest_that_contradicts_the_shards(tmp_path, change, message):
    make_dataset(tmp_path / "ds")
    edit_manifest(tmp_path / "ds", change)
    with pytest.raises(ArtifactError, match=message):
        TokenDataset.open(tmp_path / "ds")


def test_split_without_tokens_is_refused(tmp_path):
    make_dataset(tmp_path / "ds")
    edit_manifest(tmp_path / "ds", lambda m: m["details"]["shards"].pop())
    dataset = TokenDataset.open(tmp_path / "ds")
    with pytest.raises(DataError, match="has no validation tokens"):
        dataset.split("validation")


@pytest.mark.parametrize(("version", "is_read"), [(1, True), (2, True), (0, False), (3, False)])
def test_datasets_of_version_1_and_2_are_read(tmp_path, version, is_read):
    make_dataset(tmp_path / "ds")
    edit_manifest(tmp_path / "ds", lambda m: m.update(version=version))
    if is_read:
        assert TokenDataset.open(tmp_path / "ds").split("train").num_tokens == 36
        return
    with pytest.raises(ArtifactError, match=rf"format version {version}, this program reads 1 and 2"):
        TokenDataset.open(tmp_path / "ds")


def test_split_has_as_many_documents_as_end_in_it(tmp_path):
    assert make_dataset(tmp_path / "ds").split("train").num_documents == 2 + 1 + 5
    ends = (np.array([3, 4], np.uint64), np.array([1], np.uint64))
    assert TokenSplit("train", "id", (), (0, 4), 5, 5, document_ends=ends).num_documents == 3


def test_is_token_dataset_accepts_token_manifests_only(tmp_path):
    make_dataset(tmp_path / "ds")
    assert is_token_dataset(tmp_path / "ds")
    assert not is_token_dataset(tmp_path)
    edit_manifest(tmp_path / "ds", lambda m: m.update(kind="tokenizer"))
    assert not is_token_dataset(tmp_path / "ds")
    (tmp_path / MANIFEST).write_text('{"name": "a web application"}')
    assert not is_token_dataset(tmp_path)


class TestLargeDatasets:
    """Above a size, hashes are checked once per machine and state of the files."""

    @pytest.fixture(autouse=True)
    def everything_is_large(self, monkeypatch, tmp_path):
        monkeypatch.setattr(token_shards, "_ALWAYS_HASHED_BYTES", 0)
        monkeypatch.setattr(Path, "home", lambda: tmp_path / "home")

    def flip(self, path: Path, *, keep_time: bool) -> None:
        status = path.stat()
        path.write_bytes(path.read_bytes()[::-1])
        os.utime(path, ns=(0, status.st_mtime_ns if keep_time else status.st_mtime_ns + 1))

    def test_open_rehashes_a_shard_with_a_new_modification_time(self, tmp_path):
        make_dataset(tmp_path / "ds")
        self.flip(tmp_path / "ds" / "shards" / "train-00000.bin", keep_time=False)
        with pytest.raises(ArtifactError, match=r"train-00000\.bin has sha256"):
            TokenDataset.open(tmp_path / "ds")

    def test_open_trusts_remembered_hashes_unless_rehash_is_set(self, tmp_path):
        make_dataset(tmp_path / "ds")
        self.flip(tmp_path / "ds" / "shards" / "train-00000.bin", keep_time=True)
        TokenDataset.open(tmp_path / "ds")  # the price of not reading everything each time
        with pytest.raises(ArtifactError, match=r"train-00000\.bin has sha256"):
            TokenDataset.open(tmp_path / "ds", rehash=True)

    def test_open_without_a_home_folder_hashes_every_time(self, tmp_path, monkeypatch):
        def no_home():
            raise RuntimeError("Could not determine home directory.")

        monkeypatch.setattr(Path, "home", no_home)
        make_dataset(tmp_path / "ds")
        self.flip(tmp_path / "ds" / "shards" / "train-00000.bin", keep_time=True)
        with pytest.raises(ArtifactError, match=r"train-00000\.bin has sha256"):
            TokenDataset.open(tmp_path / "ds")

    def test_a_dataset_of_the_largest_size_that_is_always_read_is_read(self, tmp_path, monkeypatch):
        dataset = make_dataset(tmp_path / "ds")
        self.flip(tmp_path / "ds" / "shards" / "train-00000.bin", keep_time=True)
        size = sum(entry.bytes for entry in dataset.manifest.files)
        monkeypatch.setattr(token_shards, "_ALWAYS_HASHED_BYTES", size - 1)
        TokenDataset.open(tmp_path / "ds")
        monkeypatch.setattr(token_shards, "_ALWAYS_HASHED_BYTES", size)
        with pytest.raises(ArtifactError, match=r"train-00000\.bin has sha256"):
            TokenDataset.open(tmp_path / "ds")

    def test_a_file_that_is_gone_is_named(self, tmp_path):
        make_dataset(tmp_path / "ds")
        (tmp_path / "ds" / "shards" / "train-00000.bin").unlink()
        with pytest.raises(ArtifactError, match=r"train-00000\.bin is missing"):
            TokenDataset.open(tmp_path / "ds")

    def test_what_was_checked_is_remembered_for_each_dataset(self, tmp_path, caplog):
        for name in ("one", "two"):
            make_dataset(tmp_path / name)
        assert not [record for record in caplog.records if record.levelname == "WARNING"]
        assert len(list((tmp_path / "home").rglob("*.json"))) == 2

    def test_unwritable_home_folder_warns(self, tmp_path, caplog):
        (tmp_path / "home").write_text("a file")
        make_dataset(tmp_path / "ds")
        assert "the hashes are checked again next time" in caplog.text


def test_verify_shards_reads_every_token(tmp_path):
    dataset = make_dataset(tmp_path / "ds")
    verify_shards(dataset)
    shards = list(dataset.shards)
    shards[1] = replace(shards[1], max_id=9)
    wrong = replace(dataset, shards=shards)
    with pytest.raises(ArtifactError, match=r"train-00001\.bin has id 10, its manifest says at most 9"):
        verify_shards(wrong)
    np.array([10, 5], "<u8").tofile(tmp_path / "ds" / "shards" / "train-00000.idx")
    with pytest.raises(ArtifactError, match=r"train-00000\.idx has document ends that are not in order"):
        verify_shards(dataset)


def make_masked(folder: Path, mask=(0, 1, 1, 0, 1, 1), ends=(3,), targets=4) -> TokenDataset:
    """A shard whose last document goes on in a second one, with masks."""
    with staging(folder) as aside:
        (aside / "shards").mkdir()
        files, shards = [], []
        for number, own_ends in enumerate((ends, ())):
            shard = Shard(f"train-{number:05d}", "train", 6, len(own_ends), 0, 5, targets)
            tokens, masks = [np.arange(6, dtype=np.uint16)], [np.array(mask, np.uint8)]
            files += write_shard(aside, shard, tokens, np.array(own_ends, np.uint64), masks)
            shards.append(vars_of(shard))
        content = {"vocab_size": VOCAB, "shards": shards, "holdout": "given", "delimiter": {"id": 7}}
        content |= {"bad_utf8": {"sequences": 0, "examples": []}, "splits": {}}
        publish(aside, folder, Manifest(KIND, VERSION, {"tokenizer": "a" * 64}, {}, tuple(files), content, {}))
    return TokenDataset.open(folder)


def test_masks_and_ends_are_those_that_were_written(tmp_path):
    dataset = make_masked(tmp_path / "ds")
    verify_shards(dataset)
    split = dataset.split("train")
    assert split.masks is not None
    assert [mask.tolist() for mask in split.masks] == [[0, 1, 1, 0, 1, 1]] * 2
    assert [ends.tolist() for ends in split.document_ends] == [[3], []]
    assert (split.delimiter_id, split.masked_tokens, split.num_targets) == (7, 4, 8)
    verify_shards(make_masked(tmp_path / "all", mask=[1] * 6, targets=6))
    assert make_masked(tmp_path / "none", mask=[0] * 6, targets=0).split("train").num_targets == 0


@pytest.mark.parametrize(
    ("shard", "said"),
    [
        ({"mask": (0, 2, 1, 0, 1, 0), "targets": 3}, r"train-00000\.msk should mark 3 tokens with 1"),
        ({"targets": 3}, r"train-00000\.msk should mark 3 tokens with 1"),
        ({"ends": (0, 3)}, r"train-00000\.idx has document ends that are not in order"),
        ({"ends": (3, 3)}, r"train-00000\.idx has document ends that are not in order"),
        ({"ends": (3, 7)}, r"train-00000\.idx has document ends that are not in order"),
    ],
)
def test_verify_shards_names_masks_and_ends_that_cannot_be(tmp_path, shard, said):
    with pytest.raises(ArtifactError, match=said):
        verify_shards(make_masked(tmp_path / "ds", **shard))


def test_a_shard_has_at_least_a_token_and_of_a_chat_perhaps_no_target():
    least: dict[str, Any] = {
        "name": "x",
        "split": "train",
        "tokens": 1,
        "documents": 0,
        "text_bytes": 1,
        "max_id": 0,
    }
    chat: dict[str, Any] = least | {"text_bytes": 0, "targets": 0}
    for shard in (least, chat):
        assert TypeAdapter(Shard).validate_python(shard).tokens == 1
        for name in shard.keys() - {"name", "split"}:
            with pytest.raises(ValidationError, match=name):
                TypeAdapter(Shard).validate_python({**shard, name: shard[name] - 1})


def test_all_tokens_of_a_split_count_unless_masks_say_otherwise():
    split = TokenSplit("train", "id", (np.arange(9, dtype=np.uint16),), (0,), 9, 9)
    assert (split.num_targets, split.masks, split.document_ends, split.delimiter_id) == (9, None, (), 0)
