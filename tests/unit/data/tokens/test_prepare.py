import fcntl
import json
import logging
import random
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from tests import foreign
from tests.corpora import jsonl
from tests.prepared import prepare_tokens as prepare
from tests.waiting import wait_until

from candlewick.artifacts.manifest import read_manifest, verify
from candlewick.config import DataConfig
from candlewick.data.text.file_ranges import Split
from candlewick.data.tokens import encode, pipeline
from candlewick.data.tokens.dataset import TokenDataset, verify_shards
from candlewick.errors import ArtifactError, DataError, RunInterrupted, TokenizerError

SMALL = {"shard_text_bytes": 1 << 16}


def config_of(*paths, **settings) -> DataConfig:
    return DataConfig(train_shards=tuple(str(path) for path in paths), **settings)


def text_of(dataset: TokenDataset, split: Split, tokenizer) -> str:
    own = dataset.split(split)
    return tokenizer.decode(own.read_tokens(0, own.num_tokens).tolist(), skip_special=False)


def test_prepared_dataset_decodes_to_the_text(text_dir, tmp_path, tokenizer, tokenizer_dir):
    seen: list[tuple[int, int]] = []
    manifest, reused = prepare(
        config_of(text_dir),
        tokenizer_dir,
        tmp_path / "ds",
        progress=lambda done, total: seen.append((done, total)),
    )
    assert not reused
    dataset = TokenDataset.open(tmp_path / "ds", tokenizer_sha256=tokenizer.sha256)
    verify_shards(dataset)
    assert dataset.id == manifest.id
    texts = [path.read_text() for path in sorted(text_dir.glob("*.txt"))]
    found = text_of(dataset, "train", tokenizer).split("<|endoftext|>")[1:]
    assert len(found) == len(texts)
    assert all(text.startswith(part) for text, part in zip(texts, found, strict=True))
    total = sum(len(text) for text in texts)
    splits = manifest.details["splits"]
    assert splits["train"]["text_bytes"] + splits["validation"]["text_bytes"] == total
    assert dataset.split("train").num_bytes == splits["train"]["text_bytes"]
    assert dataset.split("validation").num_tokens == splits["validation"]["tokens"]
    assert seen[0] == (0, total)
    assert seen[-1] == (total, total)
    assert manifest.details["delimiter"] == {"id": 0, "token": "<|endoftext|>", "where": "doc_start"}
    assert manifest.details["dtype"] == "<u2"
    assert manifest.inputs["tokenizer"] == tokenizer.sha256
    assert manifest.provenance["encoder"] == "fastokens"
    assert {path.name for path in tmp_path.iterdir()} == {"ds"}


def test_prepared_dataset_is_reused_until_text_settings_or_tokenizer_change(
    write, tmp_path, tokenizer, tokenizer_dir, text_dir
):
    text = "".join(f"line {i}\n" for i in range(3000))
    path, out = write("in/a.txt", text), tmp_path / "ds"
    first, reused = prepare(config_of(path), tokenizer_dir, out)
    assert not reused
    before = (out / "manifest.json").stat()
    again, reused = prepare(config_of(path, num_workers=3, micro_batch_size=2), tokenizer_dir, out)
    assert reused
    assert again.id == first.id
    assert (out / "manifest.json").stat() == before
    ids = {first.id}
    other = write("tok/tokenizer.json", tokenizer.json_bytes + b"\n").parent
    for config, tokens in [
        (config_of(path, documents="line"), tokenizer_dir),
        (config_of(path), other),
        (config_of(path, validation_shards=(str(path),)), tokenizer_dir),
        (config_of(write("in/a.txt", text.replace("9", "8"))), tokenizer_dir),
    ]:
        manifest, reused = prepare(config, tokens, out)
        assert not reused
        ids.add(manifest.id)
    assert len(ids) == 5


def test_damaged_dataset_is_prepared_again(write, tmp_path, tokenizer_dir, caplog):
    config, out = config_of(write("in/a.txt", "some words\n" * 3000)), tmp_path / "ds"
    first, _ = prepare(config, tokenizer_dir, out)
    (out / "shards" / "train-00000.bin").write_bytes(b"")
    with caplog.at_level(logging.WARNING):
        again, reused = prepare(config, tokenizer_dir, out)
    assert not reused
    assert again.id == first.id
    assert "train-00000.bin has 0 bytes" in caplog.text
    verify(out, again)


def test_dataset_does_not_depend_on_the_number_of_workers(write, tmp_path, tokenizer_dir):
    write("in/a.txt", "".join(f"line {i} of text\n" for i in range(20_000)))
    write("in/b.jsonl", [f"row {i} with words " * 9 for i in range(900)])
    config = config_of(tmp_path / "in", **SMALL)
    shards = tmp_path / "one.partial" / "shards"
    shards.mkdir(parents=True)
    (shards / "train-00099.bin").write_bytes(b"left behind by other settings")
    one, _ = prepare(config, tokenizer_dir, tmp_path / "one")
    two, _ = prepare(config.replaced(num_workers=1), tokenizer_dir, tmp_path / "two")
    assert one.id == two.id
    assert len(one.details["shards"]) > 8
    names = {entry.name for entry in one.files} | {"manifest.json"}
    assert {p.relative_to(tmp_path / "one").as_posix() for p in (tmp_path / "one").rglob("*.*")} == names


def test_prepare_reuses_finished_shards(write, tmp_path, tokenizer_dir, monkeypatch, caplog):
    config, out = config_of(write("in/a.txt", "some words\n" * 20_000), **SMALL), tmp_path / "ds"
    made: list[int] = []

    def run_here(work, tasks, workers, alone):
        for task in tasks:
            if len(made) == 2:
                raise KeyboardInterrupt
            made.append(task.index)
            yield task, work(task)

    monkeypatch.setattr(pipeline, "map_in_order", run_here)
    with pytest.raises(RunInterrupted, match=r"stopped; what is finished is kept in .*ds\.partial") as stop:
        prepare(config, tokenizer_dir, out)
    assert stop.value.exit_code == 5
    assert not out.exists()
    made.clear()
    (out.with_name("ds.partial") / "shards" / "train-00001.bin").write_bytes(b"damaged")
    with caplog.at_level(logging.INFO), pytest.raises(RunInterrupted):
        prepare(config, tokenizer_dir, out)
    assert made == [1, 2]
    assert "1 tasks were finished before" in caplog.text
    monkeypatch.undo()
    manifest, _ = prepare(config, tokenizer_dir, out)  # the one that is left runs in this process
    assert manifest.id == prepare(config, tokenizer_dir, tmp_path / "other")[0].id
    encode._shard_maker.cache_clear()


def test_validation_text_becomes_the_validation_split(write, tmp_path, tokenizer, tokenizer_dir):
    config = config_of(write("in/a.txt", "train\n"), validation_shards=(str(write("in/b.txt", "held\n")),))
    manifest, _ = prepare(config, tokenizer_dir, tmp_path / "ds")
    dataset = TokenDataset.open(tmp_path / "ds")
    assert text_of(dataset, "train", tokenizer) == "<|endoftext|>train\n"
    assert text_of(dataset, "validation", tokenizer) == "<|endoftext|>held\n"
    assert manifest.details["holdout"] == "given"


def test_bad_utf8_is_counted_in_the_manifest_and_warned_of(write, tmp_path, tokenizer_dir, caplog):
    text = b"good\xff\xfe words\n" + b"good words\n" * 500
    config = config_of(write("in/a.txt", text + b"the end\xfe\n" + b"good words\n"))
    with caplog.at_level(logging.WARNING):
        manifest, _ = prepare(config, tokenizer_dir, tmp_path / "ds")
    assert manifest.details["bad_utf8"]["sequences"] == 3
    assert manifest.details["bad_utf8"]["examples"][0] == "a.txt, byte 4"
    assert "3 bad UTF-8 sequences in 2 documents, the first: a.txt, byte 4" in caplog.text


@pytest.mark.parametrize(
    ("name", "content", "settings", "message"),
    [
        ("a.jsonl", ["", ""], {}, r"no training text came out of .*a\.jsonl"),
        ("a.jsonl", b'{"text": "\xff"}\n' + b"\n" * 2000, {"bad_utf8": "skip"}, "no training text came out"),
        ("a.txt", "x", {}, r"no validation text came out .*data\.validation_fraction"),
        ("a.jsonl", ["x"], {}, r"no validation text came out .*data\.validation_fraction"),
        ("a.txt", b"\xff" + b"text " * 999, {"bad_utf8": "error"}, r"a\.txt, byte 0: not UTF-8"),
        ("a.parquet", ["x"], {"text_field": "body"}, "has no column 'body'"),
    ],
)
def test_text_without_tokens_is_refused(write, tmp_path, tokenizer_dir, name, content, settings, message):
    with pytest.raises(DataError, match=message):
        prepare(config_of(write(f"in/{name}", content), **settings), tokenizer_dir, tmp_path / "ds")
    assert not (tmp_path / "ds").exists()


def test_prepare_does_not_replace_a_folder_of_something_else(write, tmp_path, tokenizer_dir):
    config = config_of(write("in/a.txt", "some words\n" * 1000))
    with pytest.raises(ArtifactError, match="so it is not replaced by"):
        prepare(config, tokenizer_dir, tmp_path / "in")
    write("run/manifest.json", json.dumps({"kind": "run", "version": 1, "files": []} | EMPTY))
    with pytest.raises(ArtifactError, match="is a run, so it is not replaced by the new tokens"):
        prepare(config, tokenizer_dir, tmp_path / "run")
    (tmp_path / "empty").mkdir()
    assert not prepare(config, tokenizer_dir, tmp_path / "empty")[1]


EMPTY = {"inputs": {}, "config": {}, "details": {}, "provenance": {}}


def test_missing_tokenizer_is_refused_by_name(write, tmp_path):
    with pytest.raises(TokenizerError, match=r"nowhere.* does not exist"):
        prepare(config_of(write("in/a.txt", "x")), tmp_path / "nowhere", tmp_path / "ds")


def test_error_in_a_worker_reaches_the_caller(write, tmp_path, tokenizer_dir):
    rows = jsonl(f"row {i} " * 30 for i in range(1500))
    config = config_of(write("in/a.jsonl", rows + b"{oops\n"), **SMALL, num_workers=2)
    with pytest.raises(DataError, match=r"a\.jsonl, row 1501: Expecting property name") as e:
        prepare(config, tokenizer_dir, tmp_path / "ds")
    assert e.value.fix


def test_second_prepare_waits_and_reuses_the_dataset(write, tmp_path, tokenizer_dir, monkeypatch):
    config, out = config_of(write("in/a.txt", "some words\n" * 3000)), tmp_path / "ds"
    entered, waits, go, results = threading.Event(), threading.Event(), threading.Event(), []
    original, lock = pipeline.TextPipeline.run, fcntl.flock

    def slow(self):
        entered.set()
        assert go.wait(20)
        original(self)

    def flock(file, operation):
        if operation == fcntl.LOCK_EX:
            waits.set()
        return lock(file, operation)

    monkeypatch.setattr(pipeline.TextPipeline, "run", slow)
    monkeypatch.setattr(fcntl, "flock", flock)
    threads = [
        threading.Thread(target=lambda: results.append(prepare(config, tokenizer_dir, out))) for _ in range(2)
    ]
    threads[0].start()
    assert entered.wait(20)
    threads[1].start()
    assert waits.wait(20)
    go.set()
    for thread in threads:
        thread.join(20)
    assert sorted(reused for _, reused in results) == [False, True]
    assert not out.with_name("ds.partial").exists()


def test_prepare_removes_leftovers_of_a_killed_process(write, tmp_path, tokenizer_dir):
    config, out = config_of(write("in/a.txt", "some words\n" * 1000)), tmp_path / "ds"
    left = [tmp_path / f".{kind}-ds-0123abcd" for kind in ("old", "tmp")]
    other = tmp_path / ".old-ds-2-0123abcd"
    for folder in (*left, other):
        folder.mkdir()
    assert not prepare(config, tokenizer_dir, out)[1]
    assert not any(folder.exists() for folder in left)
    left[0].mkdir()
    assert prepare(config, tokenizer_dir, out)[1]
    assert not left[0].exists()
    assert other.exists()


def test_dataset_may_have_one_split_only(write, tmp_path, tokenizer, tokenizer_dir):
    text = "some words\n" * 400
    alone = DataConfig(validation_shards=(str(write("in/a.txt", text)),))
    prepare(alone, tokenizer_dir, tmp_path / "validation")
    dataset = TokenDataset.open(tmp_path / "validation")
    assert text_of(dataset, "validation", tokenizer) == "<|endoftext|>" + text
    with pytest.raises(DataError, match="has no train tokens"):
        dataset.split("train")
    prepare(config_of(tmp_path / "in"), tokenizer_dir, tmp_path / "train", hold_out=False)
    dataset = TokenDataset.open(tmp_path / "train")
    assert text_of(dataset, "train", tokenizer) == "<|endoftext|>" + text
    with pytest.raises(DataError, match="has no validation tokens"):
        dataset.split("validation")


def test_prepare_imports_no_torch():
    code = "import sys, candlewick.data.tokens.prepare; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


class TestStopping:
    """The command in a process of its own, stopped at arbitrary moments."""

    @pytest.fixture
    def command(self, write, tmp_path, tokenizer_dir) -> list[str]:
        path = write("in/a.txt", "".join(f"line {i} of some text\n" for i in range(240_000)))
        words = f"data prepare {path} --output {tmp_path / 'ds'} --tokenizer {tokenizer_dir} --workers 2"
        return [sys.executable, "-m", "candlewick", *words.split(), "--override", "data.shard_text_bytes=65536"]

    def wait_for(self, folder: Path, receipts: int) -> None:
        wait_until(lambda: len(list(folder.glob("shards/0*.json"))) >= receipts, f"{receipts} shards")

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_signal_stops_prepare_cleanly_and_keeps_finished_shards(self, command, tmp_path, number):
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
        self.wait_for(tmp_path / "ds.partial", 1)
        process.send_signal(number)
        _, errors = process.communicate(timeout=20)
        assert process.returncode == 5
        assert "preparation stopped; what is finished is kept in" in errors
        assert "Traceback" not in errors
        assert list((tmp_path / "ds.partial").glob("shards/0*.json"))

    def test_prepare_after_sigkill_gives_the_same_dataset(self, command, tmp_path, tokenizer_dir):
        rng = random.Random(5)
        for receipts in (0, 4):
            process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
            self.wait_for(tmp_path / "ds.partial", receipts)
            threading.Event().wait(rng.random() * 0.1)
            process.kill()
            process.wait()
            assert not (tmp_path / "ds").exists()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=60)
        config = config_of(tmp_path / "in" / "a.txt", **SMALL, num_workers=2)
        assert read_manifest(tmp_path / "ds").id == prepare(config, tokenizer_dir, tmp_path / "calm")[0].id
        verify_shards(TokenDataset.open(tmp_path / "ds"))

    @pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="lists processes by /proc")
    def test_workers_end_with_a_killed_parent(self, command, tmp_path):
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True)
        self.wait_for(tmp_path / "ds.partial", 1)
        process.kill()
        process.wait()
        wait_until(lambda: not is_alive(process.pid), "the end of the workers")


def is_alive(group: int) -> bool:
    """Whether a process of the group runs; one that has ended may wait for its new parent for a while."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, its_group = stat.read_text().rpartition(")")[2].split()[:3]
        except OSError:
            continue
        if int(its_group) == group and state != "Z":
            return True
    return False


def test_manifest_names_the_begin_and_end_tokens_of_a_document(text_dir, tmp_path, tokenizer_dir):
    foreign.write("candle_full", tmp_path / "tok")
    seeds, _ = prepare(config_of(text_dir), tmp_path / "tok", tmp_path / "ds")
    assert seeds.details["delimiter"] == {"id": 1, "token": "<bos>", "where": "doc_start"}
    assert seeds.details["end"] == {"id": 2, "token": "<eos>", "where": "doc_end"}
    assert (seeds.config["delimiter_id"], seeds.config["end_id"]) == (1, 2)
    ours, _ = prepare(config_of(text_dir), tokenizer_dir, tmp_path / "ours")
    assert "end" not in ours.details
    assert not ours.config.keys() & {"delimiter_id", "end_id"}
    split = TokenDataset.open(tmp_path / "ds").split("train")
    assert split.delimiter_id == 1
    found = split.read_tokens(0, split.num_tokens).tolist()
    assert found.count(1) == found.count(2) == seeds.details["splits"]["train"]["documents"]


def test_other_special_token_roles_of_a_tokenizer_give_another_dataset(text_dir, tmp_path):
    foreign.write("qwen2", tmp_path / "tok")
    first, _ = prepare(config_of(text_dir), tmp_path / "tok", tmp_path / "ds")
    settings = {"bos_token": "<|endoftext|>", "eos_token": "<|im_start|>"}
    (tmp_path / "tok" / "tokenizer_config.json").write_text(json.dumps(settings))
    assert prepare(config_of(text_dir), tmp_path / "tok", tmp_path / "ds") == (first, True)
    settings = {"bos_token": "<|im_x|>"}
    rust = foreign.qwen2()
    rust.add_special_tokens(["<|im_x|>"])
    (tmp_path / "tok" / "tokenizer.json").write_text(rust.to_str(), encoding="utf-8")
    plain, _ = prepare(config_of(text_dir), tmp_path / "tok", tmp_path / "ds")
    (tmp_path / "tok" / "tokenizer_config.json").write_text(json.dumps(settings))
    other, reused = prepare(config_of(text_dir), tmp_path / "tok", tmp_path / "ds")
    assert not reused
    assert plain.inputs == other.inputs
    assert other.details["delimiter"]["token"] == "<|im_x|>"


def test_what_is_there_is_found_by_sizes_and_says_who_made_it(write, tmp_path, tokenizer_dir):
    config, out = config_of(write("in/a.txt", "some words\n" * 3000), num_workers=3), tmp_path / "ds"
    manifest, _ = prepare(config, tokenizer_dir, out)
    assert manifest.provenance["workers"] == 3
    path = out / "shards" / "train-00000.bin"
    path.write_bytes(path.read_bytes()[::-1])  # hashes are checked when it is opened
    assert prepare(config, tokenizer_dir, out)[1]


def test_progress_of_several_tasks_grows_to_all_of_the_text(write, tmp_path, tokenizer_dir):
    seen: list[tuple[int, int]] = []
    config = config_of(write("in/a.txt", "some words\n" * 20_000), **SMALL, num_workers=1)
    prepare(config, tokenizer_dir, tmp_path / "ds", progress=lambda *now: seen.append(now))
    assert len(seen) == 1 + 4
    assert seen == sorted(seen)
    assert (seen[0], seen[-1]) == ((0, 220_000), (220_000, 220_000))


def test_so_many_files_without_text_are_not_all_named(write, tmp_path, tokenizer_dir):
    names = [f"{number}-{'x' * 60}.jsonl" for number in range(5)]
    for name in names:
        write(f"in/{name}", [""])
    with pytest.raises(DataError) as caught:
        prepare(config_of(tmp_path / "in"), tokenizer_dir, tmp_path / "ds")
    assert f"no training text came out of {', '.join(names)[:200]} (fix" in str(caught.value)
