"""Writing text shards without loss; stopping and continuing changes no byte."""

import gzip
import json
import logging
import os
import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.corpora import jsonl
from tests.unit.runs.test_sharding import write_candle_shards

from candlewick.artifacts import build as recipe
from candlewick.artifacts.manifest import Manifest, file_sha256, publish, read_manifest, staging, verify
from candlewick.config import DataConfig
from candlewick.data.shards import write as text_shards
from candlewick.data.shards.write import Outputs, ShardSettings, verify_text_shards, write_text_shards
from candlewick.data.text.find import open_text
from candlewick.data.text.holdout import document_split
from candlewick.errors import ArtifactError, ConfigError, DataError, RunInterrupted

CONFIG = DataConfig(documents="line")
TEXTS = [f"document {number}\nwith \t two lines\r\nor “three” {'x' * (number % 50)}" for number in range(200)]


@pytest.fixture
def text(write) -> list[str]:  # 200 documents
    write("in/a.jsonl", TEXTS[:80])
    write("in/b.parquet", TEXTS[80:150])
    return [str(write("in/c.jsonl.gz", TEXTS[150:]).parent)]


def outputs(folder: Path) -> Outputs:
    return Outputs(folder / "train", folder / "val")


def lines(folder: Path) -> list[str]:
    """Return the lines of all shards of a folder, in the manifest's order."""
    found = []
    for entry in read_manifest(folder, "text").files:
        raw = (folder / entry.name).read_bytes()
        found += (
            (gzip.decompress(raw) if entry.name.endswith(".gz") else raw).decode().removesuffix("\n").split("\n")
        )
    return found


def hashes(folder: Path) -> dict[str, str]:
    return {path.relative_to(folder).as_posix(): file_sha256(path) for path in sorted(folder.rglob("*_????.*"))}


@pytest.mark.parametrize("compress", [False, True])
def test_text_shards_hold_every_document(text, tmp_path, compress):
    made, reused = write_text_shards(text, outputs(tmp_path), ShardSettings(60, gzip=compress), CONFIG)
    assert not reused
    assert len(made) == 1
    assert not (tmp_path / "val").exists()
    assert [json.loads(line) for line in lines(tmp_path / "train")] == [{"text": text} for text in TEXTS]
    again = open_text([str(tmp_path / "train")], DataConfig())
    assert [document.text for document in again.documents()] == TEXTS
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "train"]
    verify(tmp_path / "train", made[0])


def test_shard_manifest_has_the_fields_of_transformer_candle(text, tmp_path):
    config = ShardSettings(60, validation_fraction=0.2, mode="split", seed=3, take=150)
    made, _ = write_text_shards(text, outputs(tmp_path), config, CONFIG)
    details = made[0].details
    assert {key: details[key] for key in ("dataset", "split", "mode", "seed", "lines_per_shard", "gzip")} == {
        "dataset": text[0],
        "split": "train",
        "mode": "split",
        "seed": 3,
        "lines_per_shard": 60,
        "gzip": False,
    }
    assert sum(manifest.details["total_lines"] for manifest in made) == 150
    for manifest, side in zip(made, ("train", "val"), strict=True):
        shards = manifest.details["shards"]
        assert manifest.details["total_shards"] == len(shards)
        assert manifest.details["total_bytes"] == sum(shard["bytes"] for shard in shards)
        for number, one in enumerate(shards):
            path = tmp_path / side / one["path"]
            assert path.name == f"{side}_{number:04d}.jsonl"
            assert one["lines"] == path.read_bytes().count(b"\n")
            assert (one["bytes"], one["sha256"]) == (path.stat().st_size, file_sha256(path))
            assert one["lines"] == 60 or number == len(shards) - 1


def test_holdout_keeps_copies_in_one_split_chosen_by_the_random_seed(write, tmp_path):
    uri = str(write("in/a.jsonl", TEXTS + TEXTS[::-1]))
    found = []
    for seed in (17, 17, 18):
        folder = tmp_path / str(len(found))
        write_text_shards([uri], outputs(folder), ShardSettings(validation_fraction=0.3, seed=seed), CONFIG)
        train, val = set(lines(folder / "train")), set(lines(folder / "val"))
        assert not train & val
        assert len(train | val) == len(TEXTS)
        assert 0.2 < len(val) / len(TEXTS) < 0.4
        assert val == {
            json.dumps({"text": t}, ensure_ascii=False)
            for t in TEXTS
            if document_split(t, 0.3, seed) == "validation"
        }
        found.append(val)
    assert found[0] == found[1] != found[2]


@pytest.mark.parametrize("take", [1, 79, 80, 81, 199, 200])
def test_take_writes_exactly_that_many_documents(text, tmp_path, take):
    write_text_shards(text, outputs(tmp_path), ShardSettings(50, take=take), CONFIG)
    assert len(lines(tmp_path / "train")) == take


def test_take_of_more_documents_than_exist_warns(text, tmp_path, caplog):
    write_text_shards(text, outputs(tmp_path), ShardSettings(take=201), CONFIG)
    assert "there are 200 documents, fewer than the 201 to take" in caplog.text


def test_text_format_replaces_and_counts_line_ends_inside_documents(write, tmp_path, caplog):
    uri = str(write("in/a.jsonl", ["a\nb\r\nc\rd\n", " \n ", "plain", "é\u2028x"]))
    made, _ = write_text_shards([uri], outputs(tmp_path), ShardSettings(format="text"), CONFIG)
    assert (tmp_path / "train" / "train_0000.txt").read_text() == "a b c d \nplain\né\u2028x\n"
    assert (made[0].details["newlines_replaced"], made[0].details["blank_left_out"]) == (4, 1)
    assert "4 line ends inside of documents became spaces, 1 blank documents are left out" in caplog.text
    found = open_text([str(tmp_path / "train")], DataConfig()).documents()
    assert [document.text for document in found] == ["a b c d ", "plain", "é\u2028x"]


def test_bad_utf8_is_counted_and_logged(write, tmp_path, caplog):
    uri = str(write("in/a.txt", b"good\nb\xffd\n"))
    made, _ = write_text_shards([uri], outputs(tmp_path), ShardSettings(), CONFIG)
    assert made[0].details["bad_utf8"] == {"documents": 1, "sequences": 1}
    assert "1 bad UTF-8 sequences in 1 documents, the first: a.txt, byte 6" in caplog.text


def test_document_larger_than_a_part_is_written_as_one_line(write, tmp_path):
    long = "word " * (3 << 18)
    write_text_shards([str(write("a.jsonl", [long, "b"]))], outputs(tmp_path), ShardSettings(), CONFIG)
    assert [json.loads(line)["text"] for line in lines(tmp_path / "train")] == [long, "b"]


def test_shards_of_the_same_settings_are_reused(text, tmp_path):
    config = ShardSettings(validation_fraction=0.2)
    first, _ = write_text_shards(text, outputs(tmp_path), config, CONFIG)
    again, reused = write_text_shards(text, outputs(tmp_path), config, CONFIG)
    assert reused
    assert again == first
    _, reused = write_text_shards(text, outputs(tmp_path), ShardSettings(validation_fraction=0.3), CONFIG)
    assert not reused


def test_shards_that_another_process_finished_first_are_reused(text, tmp_path, monkeypatch):
    config = ShardSettings(validation_fraction=0.2)
    first, _ = write_text_shards(text, outputs(tmp_path), config, CONFIG)
    answers = iter([None, None])
    find = recipe.find_built
    monkeypatch.setattr(text_shards, "find_built", lambda *a, **k: next(answers, find(*a, **k)))
    assert write_text_shards(text, outputs(tmp_path), config, CONFIG) == (first, True)


class Killed(BaseException):
    """Like `kill -9`: nothing in the program handles it."""


def kill_after(monkeypatch, count: int):
    """Make the `count`-th write of a state or rename of a folder the last thing that happens."""
    left = [count]

    def tick() -> None:
        left[0] -= 1
        if left[0] == 0:
            raise Killed

    def watched(real):
        def act(*args, **kwargs):
            tick()
            result = real(*args, **kwargs)
            tick()
            return result

        return act

    for module, name in ((text_shards, "replace_durable"), (text_shards, "publish"), (os, "fsync")):
        monkeypatch.setattr(module, name, watched(getattr(module, name)))


@pytest.mark.parametrize("compress", [False, True])
def test_killed_sharder_continues_to_the_same_bytes(text, tmp_path, compress):
    config = ShardSettings(23, validation_fraction=0.3, gzip=compress, take=180)
    write_text_shards(text, outputs(tmp_path / "clean"), config, CONFIG)
    expected = hashes(tmp_path / "clean")
    kills = count = 0
    while True:
        count += 5
        folder = tmp_path / f"{count}"
        with pytest.MonkeyPatch.context() as patch:
            kill_after(patch, count)
            try:
                write_text_shards(text, outputs(folder), config, CONFIG)
                break
            except Killed:
                kills += 1
        write_text_shards(text, outputs(folder), config, CONFIG)
        assert hashes(folder) == expected
        assert sorted(path.name for path in folder.iterdir()) == ["train", "val"]
        shutil.rmtree(folder)
    assert kills > 20


def test_interrupted_sharder_keeps_finished_shards_and_continues(text, tmp_path, monkeypatch, caplog):
    config = ShardSettings(23)
    write_text_shards(text, outputs(tmp_path / "clean"), config, CONFIG)
    rows: list[int] = []

    def stop(done: int, total: int) -> None:
        rows.append(done)
        if len(rows) == 2:
            raise KeyboardInterrupt

    with pytest.raises(RunInterrupted, match=r"what is finished is kept in .*train\.partial"):
        write_text_shards(text, outputs(tmp_path), config, CONFIG, progress=stop)
    assert (tmp_path / "train.partial" / "train_0000.jsonl").exists()
    caplog.set_level(logging.INFO)
    write_text_shards(text, outputs(tmp_path), config, CONFIG)
    assert "going on after 69 documents, in source file 1" in caplog.text
    assert hashes(tmp_path / "train") == hashes(tmp_path / "clean" / "train")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "train_0000.jsonl").unlink(), "train_0000.jsonl.*: the shards are begun anew"),
        (lambda f: (f / "state.json").write_text("{"), "cannot be read .*: the shards are begun anew"),
        (lambda f: (f / "state.json").unlink(), ""),
        (lambda f: (f / "junk.txt").write_text("x"), ""),
    ],
)
def test_damaged_partial_shards_are_written_again(text, tmp_path, caplog, damage, message):
    config = ShardSettings(23)
    write_text_shards(text, outputs(tmp_path / "clean"), config, CONFIG)
    with pytest.raises(RunInterrupted):
        write_text_shards(text, outputs(tmp_path), config, CONFIG, progress=interrupt)
    damage(tmp_path / "train.partial")
    write_text_shards(text, outputs(tmp_path), config, CONFIG)
    assert hashes(tmp_path / "train") == hashes(tmp_path / "clean" / "train")
    assert bool(message) == bool([r for r in caplog.records if "begun anew" in r.getMessage()])
    assert not (tmp_path / "train" / "junk.txt").exists()


def test_state_is_saved_with_whole_shards_only(write, tmp_path, monkeypatch):
    saved, save = [], text_shards._ShardJob._save_state
    monkeypatch.setattr(text_shards._ShardJob, "_save_state", lambda *args: saved.append(1) or save(*args))
    for number in range(50):
        write(f"in/{number:02}.jsonl", [f"{number} a", f"{number} b"])
    write_text_shards([str(tmp_path / "in")], outputs(tmp_path), ShardSettings(30), CONFIG)
    assert (len(saved), len(lines(tmp_path / "train"))) == (4, 100)  # three full shards, and the end


def interrupt(done: int, total: int) -> None:
    if done >= total // 2:
        raise KeyboardInterrupt


def test_partial_shards_of_other_settings_are_discarded(text, tmp_path, caplog):
    with pytest.raises(RunInterrupted):
        write_text_shards(text, outputs(tmp_path), ShardSettings(23), CONFIG, progress=interrupt)
    caplog.set_level(logging.INFO)
    write_text_shards(text, outputs(tmp_path), ShardSettings(24), CONFIG)
    assert "is of other text or settings: the shards are begun anew" in caplog.text
    assert len(lines(tmp_path / "train")) == 200


def test_hub_and_local_text_give_the_same_shards(text, hub, tmp_path):
    files = {path.name: path.read_bytes() for path in Path(text[0]).iterdir()}
    config = ShardSettings(23, validation_fraction=0.3)
    write_text_shards(text, outputs(tmp_path / "local"), config, CONFIG)
    hub.commit("datasets/o/n", files)
    fetched = tmp_path / "cache"
    own = Outputs(tmp_path / "hub" / "train", tmp_path / "hub" / "val", fetched)
    made, _ = write_text_shards(["hf://datasets/o/n"], own, config, CONFIG, ahead=2)
    assert made[0].details["dataset"] == "hf://datasets/o/n"
    assert hashes(tmp_path / "hub") == hashes(tmp_path / "local")
    assert not fetched.exists()


def test_take_from_the_hub_fetches_only_a_few_files_ahead(text, hub, tmp_path):
    hub.commit("datasets/o/n", {f"{n}.txt": b"line\n" * 10 for n in range(9)})
    write_text_shards(["hf://datasets/o/n"], outputs(tmp_path), ShardSettings(take=15), CONFIG)
    assert hub.asked("GET .*/resolve/") <= 3
    assert len(lines(tmp_path / "train")) == 15


def test_sharding_progress_ends_at_its_total(text, tmp_path):
    seen: list[tuple[int, int]] = []
    write_text_shards(text, outputs(tmp_path), ShardSettings(50), CONFIG, progress=lambda *a: seen.append(a))
    assert seen == sorted(seen)
    assert seen[-1][0] == seen[-1][1]
    seen.clear()
    write_text_shards(
        text, outputs(tmp_path), ShardSettings(50, take=100), CONFIG, progress=lambda *a: seen.append(a)
    )
    assert seen[-1][0] == seen[-1][1]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            ShardSettings(take=3, validation_fraction=1e-9),
            "no validation document came out of .*hold out more",
        ),
        (ShardSettings(take=3, validation_fraction=1 - 1e-9), "no training document came out of .*give more text"),
    ],
)
def test_split_without_documents_is_refused(text, tmp_path, config, message):
    with pytest.raises(DataError, match=message):
        write_text_shards(text, outputs(tmp_path), config, CONFIG)


def test_folder_of_something_else_at_an_output_is_not_replaced(text, tmp_path):
    (tmp_path / "val").mkdir()
    (tmp_path / "val" / "mine").write_text("x")
    with pytest.raises(ArtifactError, match="val exists and is a folder of something else"):
        write_text_shards(text, outputs(tmp_path), ShardSettings(validation_fraction=0.1), CONFIG)
    with pytest.raises(ConfigError, match="both go to"):
        same = Outputs(tmp_path / "x", tmp_path / "y" / ".." / "x")
        write_text_shards(text, same, ShardSettings(validation_fraction=0.1), CONFIG)


def test_bad_row_is_refused_with_file_and_row(write, tmp_path):
    uri = str(write("in/a.jsonl", '{"text": "a"}\n{"text": 3}\n'))
    with pytest.raises(DataError, match=r"a\.jsonl, row 2: field 'text' is '3', not text"):
        write_text_shards([uri], outputs(tmp_path), ShardSettings(), CONFIG)
    assert not (tmp_path / "train").exists()


@settings(max_examples=40, deadline=None)
@given(texts=st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=1, max_size=8))
def test_text_shards_keep_any_text_without_loss(tmp_path_factory, texts):
    folder = tmp_path_factory.mktemp("any")
    (folder / "a.jsonl").write_bytes(jsonl([*texts, "end"]))
    write_text_shards([str(folder / "a.jsonl")], outputs(folder), ShardSettings(3), CONFIG)
    found = [document.text for document in open_text([str(folder / "train")], CONFIG).documents()]
    assert found == [t for t in [*texts, "end"] if t]


@pytest.fixture
def candle_shards(tmp_path) -> Path:
    """What transformer_candle's sharder wrote: lines of text, and absolute paths in the manifest."""
    folder = tmp_path / "old"
    write_candle_shards(folder, {"train_0000.txt": "one\ntwo\n", "train_0001.txt": "three\n"})
    path = folder / "manifest.json"
    path.write_text(path.read_text().replace("train_0", "/workspace/datasets/train/train_0"))
    return folder


def test_shards_of_transformer_candle_are_read_and_verified(candle_shards):
    documents = open_text([str(candle_shards)], DataConfig()).documents()
    assert [document.text for document in documents] == ["one", "two", "three"]
    assert verify_text_shards(candle_shards) == (2, 14)
    (candle_shards / "train_0001.txt").write_bytes(b"Three\n")
    with pytest.raises(ArtifactError, match=r"train_0001.txt has sha256 .* its content changed"):
        verify_text_shards(candle_shards)
    (candle_shards / "train_0000.txt").write_bytes(b"one\n")
    with pytest.raises(ArtifactError, match=r"train_0000.txt has 4 bytes, its manifest says 8"):
        verify_text_shards(candle_shards)
    (candle_shards / "train_0000.txt").unlink()
    with pytest.raises(ArtifactError, match=r"train_0000.txt is missing"):
        verify_text_shards(candle_shards)


def test_verify_text_checks_shards_of_candlewick(text, tmp_path):
    made, _ = write_text_shards(text, outputs(tmp_path), ShardSettings(60), CONFIG)
    assert verify_text_shards(tmp_path / "train") == (4, made[0].details["total_bytes"])
    path = tmp_path / "train" / "train_0002.jsonl"
    path.write_bytes(path.read_bytes().replace(b"document", b"Document", 1))
    with pytest.raises(ArtifactError, match=r"train_0002.jsonl has sha256"):
        verify_text_shards(tmp_path / "train")


@pytest.mark.parametrize(
    "raw", ["{", "[]", "{}", '{"shards": 3}', '{"shards": [{"path": "x"}]}', "3", "[" * 99999]
)
def test_verify_text_refuses_a_manifest_of_other_content(tmp_path, raw):
    (tmp_path / "manifest.json").write_text(raw)
    with pytest.raises(ArtifactError, match=r"manifest.json lists no shards"):
        verify_text_shards(tmp_path)


def test_verify_text_refuses_an_artifact_of_another_kind(tokenizer_dir, tmp_path):
    with pytest.raises(ArtifactError, match=r"has no manifest\.json"):
        verify_text_shards(tokenizer_dir)
    with staging(tmp_path / "other") as aside:
        publish(aside, tmp_path / "other", Manifest("tokenizer", 1, {}, {}, (), {}, {}))
    with pytest.raises(ArtifactError, match="expected 'text'"):
        verify_text_shards(tmp_path / "other")
