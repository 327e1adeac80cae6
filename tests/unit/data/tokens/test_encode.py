import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tests import foreign
from tests.prepared import plan_tasks

from candlewick.artifacts.manifest import file_sha256
from candlewick.config import DataConfig
from candlewick.data.text import documents, file_ranges
from candlewick.data.text.find import open_text
from candlewick.data.tokens import encode
from candlewick.data.tokens.encode import ShardMaker, Task, TokenOutput, read_receipt, receipt_entry
from candlewick.errors import DataError
from candlewick.tokenizer.bpe import Tokenizer
from candlewick.tokenizer.encoder import FastEncoder, ReferenceEncoder


@pytest.fixture
def target(tmp_path, tokenizer) -> TokenOutput:
    folder = tmp_path / "out"
    for name in ("shards", "tokenizer"):
        (folder / name).mkdir(parents=True)
    tokenizer.write(folder / "tokenizer")
    return TokenOutput(folder, tokenizer.vocab_size, tokenizer.delimiter_id)


def tasks_of(path, **config) -> list[Task]:
    settings = DataConfig(**config)
    return plan_tasks(open_text([str(path)], settings), settings)


def read_back(target: TokenOutput, split: str) -> tuple[list[int], list[int]]:
    """All tokens and document ends of a split, as if it were one shard."""
    tokens, ends = [], []
    for path in sorted((target.folder / "shards").glob(f"{split}-*.bin")):
        ends += (np.fromfile(path.with_suffix(".idx"), "<u8").astype(int) + len(tokens)).tolist()
        tokens += np.fromfile(path, "<u2").tolist()
    return tokens, ends


def expected(tokenizer, texts) -> tuple[list[int], list[int]]:
    tokens, ends = [], []
    for text in texts:
        tokens += [tokenizer.delimiter_id, *tokenizer.encode(text)]
        ends.append(len(tokens))
    return tokens, ends


TEXTS = [f"document {i} of some words, <|endoftext|> 中文\n" * (i % 7 + 1) for i in range(40)]


@pytest.mark.parametrize("backend", ["fastokens", "tokenizers"])
def test_shards_hold_the_ids_of_each_document(write, target, tokenizer, backend, monkeypatch):
    path = write("in/a.jsonl", TEXTS)
    if backend == "tokenizers":
        monkeypatch.setattr(encode, "make_encoder", ReferenceEncoder)
    (first, *rest) = tasks_of(path, validation_fraction=0.2)
    maker = ShardMaker(target)
    assert maker.backend == backend
    receipt = maker.run(first)
    assert not rest
    assert read_back(target, "train") == expected(tokenizer, TEXTS[:32])
    assert read_back(target, "validation") == expected(tokenizer, TEXTS[32:])
    train, validation = receipt.shards
    assert (train.name, train.split, train.documents) == ("train-00000", "train", 32)
    assert train.text_bytes == sum(len(text.encode()) for text in TEXTS[:32])
    assert validation.max_id == max(read_back(target, "validation")[0])
    assert [entry.name for entry in receipt.files] == [
        f"shards/{split}-00000.{extension}" for split in ("train", "validation") for extension in ("bin", "idx")
    ]


def test_rows_are_assigned_to_splits_by_their_hash(write, target, tokenizer):
    rows = [f"row {i}" for i in range(1200)]
    for task in tasks_of(write("in/a.jsonl", rows), validation_fraction=0.3):
        ShardMaker(target).run(task)
    train, validation = (tokenizer.decode(read_back(target, split)[0]) for split in ("train", "validation"))
    held = [row for row in rows if encode.document_split(row, 0.3) == "validation"]
    assert validation == "".join(held)
    assert train == "".join(row for row in rows if row not in set(held))


def test_delimiter_inside_a_text_is_encoded_as_plain_text(write, target, tokenizer):
    (task,) = tasks_of(write("in/a.jsonl", TEXTS))
    ShardMaker(target).run(task)
    tokens, ends = read_back(target, "train")
    assert tokens.count(tokenizer.delimiter_id) == len(ends)


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl"])
def test_document_in_parts_has_the_ids_of_the_undivided_text(write, target, tokenizer, name, monkeypatch):
    monkeypatch.setattr(file_ranges, "PART_BYTES", 1 << 10)
    monkeypatch.setattr("candlewick.data.text.documents.PART_BYTES", 1 << 10)
    monkeypatch.setattr(encode, "_BATCH_CHARACTERS", 1 << 12)
    text = "".join(f"line {i} with words,\n  and 中文 {i * 7}\r\n" for i in range(9000))
    tasks = tasks_of(write(f"in/{name}", text if name == "a.txt" else [text, "end"]), shard_text_bytes=1 << 16)
    for task in tasks:
        ShardMaker(target).run(task)
    tokens, ends = read_back(target, "train")
    if name == "a.txt":
        assert len(tasks) > 3
        held, _ = read_back(target, "validation")
        assert tokens + held[1:] == expected(tokenizer, [text])[0]
        assert ends == [len(tokens)]
    else:
        assert (tokens, ends) == expected(tokenizer, [text])


def test_long_compressed_file_becomes_several_shards(write, target, tokenizer, monkeypatch):
    monkeypatch.setattr(encode, "_BATCH_CHARACTERS", 1 << 12)
    rows = [f"row {i} of a compressed file" for i in range(20_000)]
    (task,) = tasks_of(write("in/a.txt.gz", "\n".join(rows)), documents="line", shard_text_bytes=1 << 16)
    receipt = ShardMaker(target).run(task)
    names = [shard.name for shard in receipt.shards if shard.split == "train"]
    assert names[:3] == ["train-00000", "train-00000_001", "train-00000_002"]
    assert sum(shard.documents for shard in receipt.shards) == 20_000
    train = [row for row in rows if encode.document_split(row, 0.01) == "train"]
    assert sorted(read_back(target, "train")[0]) == sorted(expected(tokenizer, train)[0])


def test_compressed_chats_with_short_answers_become_several_shards(write, tmp_path, tokenizer, monkeypatch):
    monkeypatch.setattr(encode, "_BATCH_CHARACTERS", 1 << 12)
    talk = [{"role": "user", "content": "many words of a question " * 9}, {"role": "assistant", "content": "no"}]
    (tmp_path / "out" / "shards").mkdir(parents=True)
    (tmp_path / "out" / "tokenizer").mkdir()
    chat = tokenizer.with_chat_tokens()
    chat.write(tmp_path / "out" / "tokenizer")
    path = write("in/a.jsonl.gz", f"{json.dumps({'messages': talk})}\n" * 2000)
    (task,) = tasks_of(path, format="chat", shard_text_bytes=1 << 16)
    receipt = ShardMaker(TokenOutput(tmp_path / "out", chat.vocab_size, chat.delimiter_id)).run(task)
    assert len(receipt.shards) > 2
    assert sum(shard.text_bytes for shard in receipt.shards) == 2 * 2000


def test_shards_of_large_vocabularies_use_four_bytes(write, target):
    (task,) = tasks_of(write("in/a.jsonl", TEXTS))
    large = TokenOutput(target.folder, 1 << 17, 0)
    receipt = ShardMaker(large).run(task)
    assert receipt.files[0].bytes == receipt.shards[0].tokens * 4


def test_ids_outside_the_vocabulary_are_refused(write, target):
    (task,) = tasks_of(write("in/a.jsonl", TEXTS))
    with pytest.raises(DataError, match=r"the encoder gave id \d+, the tokenizer has 50 ids"):
        ShardMaker(TokenOutput(target.folder, 50, 0)).run(task)


def test_encoding_progress_counts_the_bytes_of_text(write, target):
    (task,) = tasks_of(write("in/a.jsonl", TEXTS))
    seen: list[int] = []
    ShardMaker(target).run(task, seen.append)
    assert sum(seen) == sum(map(len, TEXTS))


class TestReceipt:
    @pytest.fixture
    def task(self, write) -> Task:
        return tasks_of(write("in/a.jsonl", [*TEXTS, "bad"]))[0]

    def test_receipt_reads_back_equal(self, task, target):
        receipt = ShardMaker(target).run(task)
        assert read_receipt(target.folder, task) == receipt
        entry = receipt_entry(target.folder, task)
        assert entry.name == "shards/00000.json"
        assert entry.sha256 == file_sha256(target.folder / entry.name)

    def test_receipt_of_an_unfinished_task_is_none(self, task, target):
        assert read_receipt(target.folder, task) is None

    def test_receipt_of_another_task_is_none(self, task, target):
        receipt = ShardMaker(target).run(task)
        other = Task(task.index, task.file_ranges, task.text_bytes, "f" * 64, task.reading)
        assert receipt.key == task.key
        assert read_receipt(target.folder, other) is None

    @pytest.mark.parametrize("content", ["", "[]", "{}", '{"key": 1, "shards": [1], "files": [], "bad_utf8": {}}'])
    def test_damaged_receipt_is_none(self, task, target, content):
        ShardMaker(target).run(task)
        (target.folder / "shards" / "00000.json").write_text(content)
        assert read_receipt(target.folder, task) is None

    @pytest.mark.parametrize("name", ["train-00000.bin", "validation-00000.idx"])
    def test_receipt_with_a_missing_or_changed_file_is_none(self, task, target, name):
        ShardMaker(target).run(task)
        path = target.folder / "shards" / name
        path.write_bytes(path.read_bytes()[:-1] + b"\x01")
        assert read_receipt(target.folder, task) is None
        path.unlink()
        assert read_receipt(target.folder, task) is None

    def test_shards_have_the_same_bytes_with_every_encoder(self, task, target, monkeypatch):
        receipts = set()
        for backend in (FastEncoder, ReferenceEncoder):
            monkeypatch.setattr(encode, "make_encoder", backend)
            ShardMaker(target).run(task)
            receipts.add((target.folder / "shards" / "00000.json").read_text())
        assert len(receipts) == 1
        assert json.loads(receipts.pop())["bad_utf8"]["documents"] == 0


class TestSelfCheck:
    def test_encoder_check_stops_a_wrong_encoder_and_names_the_document(self, write, target, monkeypatch):
        (task,) = tasks_of(write("in/a.jsonl", TEXTS))
        maker = ShardMaker(target)
        right = maker._encoder.encode

        class Wrong:
            name = "wrong"

            def encode(self, texts):
                ids, lengths = right(texts)
                return ids ^ np.uint32(1), lengths

        assert maker._self_check is not None
        wrong: Any = Wrong()
        maker._encoder = maker._self_check._encoder = wrong
        with pytest.raises(
            DataError, match=r"a\.jsonl, document at 0: encoder wrong gives other ids .*'document 0"
        ):
            maker.run(task)
        assert read_receipt(target.folder, task) is None

    def test_encoder_check_keeps_to_its_share_of_the_time(self, write, target, monkeypatch):
        (task,) = tasks_of(write("in/a.jsonl", TEXTS))
        check = ShardMaker(target)._self_check
        assert check is not None
        documents = [document for _, document in encode._read_task(task, encode.TextDefects())]
        clock, checked = [0.0], []

        class Reference:
            name = "reference"

            def encode(self, texts):
                clock[0] += 1.0
                checked.append(texts)
                return check_encoder.encode(texts)

        check_encoder = check._encoder
        reference: Any = Reference()
        check._reference, check._began, check._spent = reference, 0.0, 0.0
        monkeypatch.setattr(encode.time, "process_time", lambda: clock[0])
        for _ in range(1000):
            clock[0] += 1.0
            check.run(documents)
        assert check._spent == len(checked)
        assert 0.02 * clock[0] < check._spent <= 0.03 * clock[0] + 1

    def test_encoder_check_always_checks_the_first_batch(self, write, target):
        (task,) = tasks_of(write("in/a.jsonl", TEXTS))
        check = ShardMaker(target)._self_check
        assert check is not None
        check._spent = 1e9
        check.run([document for _, document in encode._read_task(task, encode.TextDefects())][:1])
        assert not check._is_first


@pytest.mark.parametrize("kind", ["candle", "candle_full", "llama2", "llama3", "qwen2"])
@pytest.mark.parametrize("is_cut", [False, True])
def test_documents_get_the_begin_and_end_tokens_of_a_foreign_tokenizer(write, tmp_path, kind, is_cut, monkeypatch):
    if is_cut:  # parts, and several shards
        monkeypatch.setattr(file_ranges, "PART_BYTES", 200)
        monkeypatch.setattr(documents, "PART_BYTES", 200)
        monkeypatch.setattr(file_ranges, "MAX_PART_BYTES", 400)
        monkeypatch.setattr(encode, "_BATCH_CHARACTERS", 1000)
    foreign.write(kind, tmp_path / "out" / "tokenizer")
    (tmp_path / "out" / "shards").mkdir()
    own = Tokenizer.load(tmp_path / "out" / "tokenizer")
    target = TokenOutput(tmp_path / "out", own.vocab_size, own.delimiter_id, own.end_id)
    texts = [text.replace("\n", " ").replace("\r", "") for text in foreign.texts(4, 30)]
    maker = ShardMaker(target)
    for task in tasks_of(write("in/a.jsonl", texts), validation_fraction=0.2):
        receipt = maker.run(task)
        assert sum(shard.text_bytes for shard in receipt.shards) == sum(len(text.encode()) for text in texts)
    end = [] if own.end_id is None else [own.end_id]
    tokens, ends = [], []
    for text in texts[:24]:
        tokens += [own.delimiter_id, *own.encode(text), *end]
        ends.append(len(tokens))
    assert read_back(target, "train") == (tokens, ends)


def test_document_across_shards_has_one_end_token(write, tmp_path):
    foreign.write("candle_full", tmp_path / "out" / "tokenizer")
    (tmp_path / "out" / "shards").mkdir()
    own = Tokenizer.load(tmp_path / "out" / "tokenizer")
    text = " ".join(foreign.texts(6, 300)).replace("\n", " ").replace("\r", "")
    tasks = tasks_of(write("in/a.txt", text), shard_text_bytes=1 << 16)
    assert len(tasks) > 1
    maker = ShardMaker(TokenOutput(tmp_path / "out", own.vocab_size, own.delimiter_id, own.end_id))
    for task in tasks:
        maker.run(task)
    for split in ("train", "validation"):  # the tail of the file is held out
        own_tokens, own_ends = read_back(maker.output, split)
        assert own_ends == [len(own_tokens)]
        assert (own_tokens.count(1), own_tokens.count(2)) == (1, 1)
        assert (own_tokens[0], own_tokens[-1]) == (1, 2)


def test_the_beginnings_of_some_documents_of_a_batch_are_checked(write, target):
    (task,) = tasks_of(write("in/a.jsonl", ["x" * 600] * 64))
    check = ShardMaker(target)._self_check
    assert check is not None
    seen, encoder = [], check._encoder
    reference: Any = SimpleNamespace(encode=lambda texts: seen.append(len(texts[0])) or encoder.encode(texts))
    check._reference, check._began = reference, -1e9  # there is time for all
    document = next(document for _, document in encode._read_task(task, encode.TextDefects()))
    for count, checked in ((64, 32), (33, 33), (3, 3)):
        seen.clear()
        check.run([document] * count)
        assert seen == [512] * checked


def test_a_shard_is_written_when_it_holds_more_than_twice_the_wanted_text(write, target, monkeypatch):
    monkeypatch.setattr(encode, "_BATCH_CHARACTERS", 1 << 12)
    path = write("in/a.txt.gz", "\n".join([f"{'the and of to in is ' * 3}{i:04d}" for i in range(4500)]))
    settings = DataConfig(documents="line", shard_text_bytes=1 << 16)
    (task, *_) = plan_tasks(open_text([str(path)], settings), settings, hold_out=False)
    batch = 1 << 12
    sizes = [shard.text_bytes for shard in ShardMaker(target).run(task).shards]
    assert sizes[:2] == [2 * (1 << 16) + batch] * 2
    assert sum(sizes) == 4500 * 64
