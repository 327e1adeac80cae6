import hashlib
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.token_splits import make_split

from candlewick.artifacts.manifest import read_manifest
from candlewick.data.rows import packing_plan
from candlewick.data.rows.packing import PackedRows
from candlewick.data.rows.packing_plan import PackingPlan, pack
from candlewick.data.tokens.dataset import TokenSplit
from candlewick.errors import ArtifactError, DataError


def rows_of(plan: PackingPlan) -> list[list[tuple[int, int]]]:
    return [*plan.segments(np.arange(plan.num_rows))]


def reference(documents: list[int], length: int, bucket: int) -> list[set[tuple[int, int]]]:
    """The segments of each row, bucket by bucket, in the order in which they were packed."""
    rows: list[set[tuple[int, int]]] = []
    first = 0
    for low in range(0, len(documents), bucket):
        segments: list[tuple[int, int]] = []
        for size in documents[low : low + bucket]:
            segments += [(first + i, min(length, size - i)) for i in range(0, size, length)]
            first += size
        row_of = pack(np.array([size for _, size in segments], np.int32), length)
        rows += [{s for s, r in zip(segments, row_of, strict=True) if r == row} for row in range(row_of.max() + 1)]
    return rows


DOCUMENTS = st.lists(st.integers(1, 30), min_size=1, max_size=25)


@given(DOCUMENTS, st.lists(st.integers(0, 10_000), max_size=3), st.integers(1, 12), st.integers(1, 9))
@settings(max_examples=40, deadline=None)
def test_plan_packs_each_bucket_alone_whatever_the_shards(documents, cuts, length, bucket):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packing_plan, "_BUCKET_DOCUMENTS", bucket)
        plan = PackingPlan(make_split(documents, cuts), length)
    found = rows_of(plan)
    assert sorted(map(sorted, found)) == sorted(map(sorted, reference(documents, length, bucket)))
    assert plan.tokens(np.arange(plan.num_rows)).tolist() == [sum(size for _, size in row) for row in found]


def test_only_the_entries_of_a_row_are_brought_into_memory(monkeypatch):
    plan, brought = PackingPlan(make_split([4, 9, 2, 7, 3]), 10), list[tuple[int, int]]()
    monkeypatch.setattr(
        packing_plan, "require_readable", lambda _, starts, length: brought.append((len(starts), length))
    )
    rows = rows_of(plan)
    assert brought == [(len(rows), 2), *((1, len(row)) for row in rows)]


def test_rows_are_those_of_earlier_versions(monkeypatch):
    monkeypatch.setattr(packing_plan, "_BUCKET_DOCUMENTS", 500)
    documents = np.random.default_rng(3).lognormal(2, 1.2, 3210).astype(int).clip(1, 300).tolist()
    view = PackedRows(make_split(documents, [999, 1000, 20_000]), 64)
    rows = view.read(np.arange(view.num_rows), 0)
    digest = hashlib.sha256(rows.tokens.tobytes() + rows.targets.tobytes()).hexdigest()
    assert (view.num_rows, digest[:16]) == (750, "d3423c8f66eeeb5c")


class TestLargeSplits:
    """The plan of a large split is a file in the cache."""

    DOCUMENTS = np.random.default_rng(4).integers(1, 60, 1000).tolist()

    @pytest.fixture(autouse=True)
    def everything_is_large(self, monkeypatch, tmp_path):
        monkeypatch.setattr(packing_plan, "_MAX_IN_MEMORY", 999)
        monkeypatch.setattr(packing_plan, "_BUCKET_DOCUMENTS", 100)
        monkeypatch.setattr(Path, "home", lambda: tmp_path / "home")

    def test_the_file_holds_what_is_planned_in_memory_and_is_made_once(self, tmp_path, monkeypatch):
        split = make_split(self.DOCUMENTS, [333, 334])
        made = PackingPlan(split, 32, tmp_path)
        assert rows_of(made) == rows_of(PackingPlan(split, 32))
        (folder,) = tmp_path.iterdir()
        assert (folder.name[:5], read_manifest(folder, "rows", 1).inputs) == ("rows-", {"dataset": "id"})
        monkeypatch.setattr(packing_plan, "_pack", None)
        again = PackingPlan(split, 32, tmp_path)
        rows = np.array([again.num_rows - 1, 0, 0])
        assert [*again.segments(rows)] == [*made.segments(rows)]

    def test_each_split_and_length_has_its_own_file(self, tmp_path):
        PackingPlan(make_split(self.DOCUMENTS), 32, tmp_path)
        PackingPlan(make_split(self.DOCUMENTS), 33, tmp_path)
        PackingPlan(make_split(self.DOCUMENTS, dataset_id="other"), 32, tmp_path)
        PackingPlan(make_split(self.DOCUMENTS[1:]), 32, tmp_path)  # 999 documents are not many
        assert len([*tmp_path.iterdir()]) == 3

    def test_a_changed_file_is_named(self, tmp_path):
        PackingPlan(make_split(self.DOCUMENTS), 32, tmp_path)
        (path,) = tmp_path.rglob("rows.bin")
        path.write_bytes(path.read_bytes()[::-1])
        with pytest.raises(ArtifactError, match=r"rows\.bin has sha256 .*fix: remove .*/rows-.*made again"):
            PackingPlan(make_split(self.DOCUMENTS), 32, tmp_path)

    def test_a_document_without_an_end_leaves_nothing(self, tmp_path):
        split = make_split(self.DOCUMENTS)
        object.__setattr__(split, "num_tokens", split.num_tokens + 1)
        with pytest.raises(DataError, match="the last document of train has no end"):
            PackingPlan(split, 32, tmp_path)
        assert not [*tmp_path.iterdir()]

    def test_without_room_the_plan_is_kept_in_memory_and_that_is_told(self, tmp_path, monkeypatch, caplog):
        def write(path, chunks):
            with path.open("wb") as file:
                file.write(next(chunks))
            raise OSError(28, "No space left on device", str(path))

        monkeypatch.setattr(packing_plan, "write_durable", write)
        split = make_split(self.DOCUMENTS)
        assert rows_of(PackingPlan(split, 32, tmp_path)) == rows_of(PackingPlan(split, 32))
        assert "No space left on device" in caplog.text
        assert not [*tmp_path.iterdir()]


def test_a_plan_of_any_size_takes_the_memory_of_a_bucket(tmp_path, monkeypatch):
    monkeypatch.setattr(packing_plan, "_MAX_IN_MEMORY", 0)
    monkeypatch.setattr(packing_plan, "_BUCKET_DOCUMENTS", 1 << 12)
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "home")
    peaks: list[int] = []
    for documents in (1 << 14, 1 << 18):
        bounds = range(0, documents + 1, 1 << 11)
        ends = tuple(np.arange(1, 2049, dtype=np.uint64) for _ in bounds[1:])
        split = TokenSplit("train", str(documents), (), tuple(bounds[:-1]), documents, 1, document_ends=ends)
        tracemalloc.start()
        PackingPlan(split, 4, tmp_path)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.5 * peaks[0]
