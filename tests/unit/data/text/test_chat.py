import json
import random
from typing import Any

import pytest
from tests.prepared import prepare_tokens as prepare

from candlewick.config import DataConfig
from candlewick.data.text.chat import Message, chat_sha256, parse_messages
from candlewick.data.text.file_ranges import Split
from candlewick.data.text.holdout import hash_split
from candlewick.data.tokens.dataset import TokenDataset, verify_shards
from candlewick.errors import ArtifactError, DataError
from candlewick.tokenizer.bpe import Tokenizer
from candlewick.tokenizer.chat import encode_chat


def make_chats(count: int, seed: int = 0) -> list[list[dict[str, Any]]]:
    """Conversations of all shapes: with a system message, of several turns, with odd contents."""
    choose = random.Random(seed)
    contents = ["", "yes", "two words", "\n\nlines\n", "  <|im_end|>", "中文 é", "x" * 300, "\\u0041"]
    chats = []
    for number in range(count):
        turns = [{"role": "system", "content": "Be kind."}] * choose.randrange(2)
        for _ in range(choose.randrange(1, 4)):
            turns.append({"role": "user", "content": f"{number} {choose.choice(contents)}"})
            turns.append({"role": "assistant", "content": choose.choice(contents[1:])})
        chats.append(turns)
    return chats


def lines(chats, field="messages") -> str:
    return "".join(
        json.dumps({"id": 1, field: chat}, ensure_ascii=i % 2 > 0) + "\n" for i, chat in enumerate(chats)
    )


def config_of(*paths, **settings) -> DataConfig:
    return DataConfig(train_shards=tuple(map(str, paths)), format="chat", num_workers=1, **settings)


def read_back(folder, split: Split) -> tuple[list[int], list[int], list[int]]:
    """Ids, masks and document ends of a split."""
    own = TokenDataset.open(folder).split(split)
    assert own.masks is not None
    ends = [
        int(end) + start for start, part in zip(own.shard_starts, own.document_ends, strict=True) for end in part
    ]
    masks = [int(value) for mask in own.masks for value in mask]
    assert own.num_targets == sum(masks)
    return own.read_tokens(0, own.num_tokens).tolist(), masks, ends


def expected(tokenizer, chats) -> tuple[list[int], list[int], list[int]]:
    ids: list[int] = []
    masks: list[int] = []
    ends: list[int] = []
    for chat in chats:
        own, mask = encode_chat(tokenizer, chat)
        ids, masks = ids + own, masks + mask
        ends.append(len(ids))
    return ids, masks, ends


@pytest.mark.parametrize("batch", [None, 1 << 9])
def test_chat_shards_hold_every_conversation_with_its_mask(
    write, tmp_path, tokenizer, tokenizer_dir, batch, monkeypatch
):
    if batch:
        monkeypatch.setattr("candlewick.data.tokens.encode._BATCH_CHARACTERS", batch)
    chats = make_chats(200)
    path = write("in/a.jsonl", lines(chats))
    manifest, _ = prepare(config_of(path, validation_fraction=0.1), tokenizer_dir, tmp_path / "ds")
    verify_shards(TokenDataset.open(tmp_path / "ds"))
    own = Tokenizer.load(tmp_path / "ds" / "tokenizer")
    assert own.sha256 == tokenizer.with_chat_tokens().sha256
    assert read_back(tmp_path / "ds", "train") == expected(own, chats[:180])
    assert read_back(tmp_path / "ds", "validation") == expected(own, chats[180:])
    answers = [turn["content"] for chat in chats for turn in chat if turn["role"] == "assistant"]
    counted = sum(split["text_bytes"] for split in manifest.details["splits"].values())
    assert counted == sum(len(answer.encode()) for answer in answers)
    assert prepare(config_of(path, validation_fraction=0.1), tmp_path / "ds" / "tokenizer", tmp_path / "ds")[1]


def test_chat_holdout_is_by_the_hash_of_the_conversation(write, tmp_path, tokenizer_dir):
    chats = make_chats(1500)
    prepare(
        config_of(write("in/a.jsonl", lines(chats)), validation_fraction=0.2, shard_text_bytes=1 << 16),
        tokenizer_dir,
        tmp_path / "ds",
    )
    own = Tokenizer.load(tmp_path / "ds" / "tokenizer")
    hashes = [chat_sha256([Message(turn["role"], turn["content"]) for turn in chat]) for chat in chats]
    sides = [hash_split(found, 0.2) for found in hashes]
    for name in ("train", "validation"):
        wanted = [chat for chat, side in zip(chats, sides, strict=True) if side == name]
        assert len(wanted) > 200
        assert read_back(tmp_path / "ds", name) == expected(own, wanted)


def test_duplicates_and_conversations_without_an_answer_are_left_out(write, tmp_path, tokenizer_dir, caplog):
    chats = make_chats(20)
    idle = [{"role": "user", "content": "hello?"}, {"role": "assistant", "content": ""}]
    path = write("in/a.jsonl.gz", lines([*chats, idle, *chats[:4]], "turns"))
    config = config_of(path, deduplicate=True, messages_field="turns", validation_fraction=0.2)
    manifest, _ = prepare(config, tokenizer_dir, tmp_path / "ds")
    assert manifest.details["left_out"] == {"duplicates": 4, "unanswered": 1}
    assert "1 conversations without an answer" in caplog.text
    own = Tokenizer.load(tmp_path / "ds" / "tokenizer")
    ids = read_back(tmp_path / "ds", "train")[0] + read_back(tmp_path / "ds", "validation")[0]
    assert ids == expected(own, chats)[0]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("{oops", "Expecting property name"),
        ("[]", "no list of messages under 'messages', only none"),
        ('{"text": "x"}', "no list of messages under 'messages', only text .*data.messages_field"),
        ('{"messages": []}', "no list of messages under 'messages', only messages"),
        ('{"messages": [{"role": "user"}]}', r"message 1 is \{'role': 'user'\}, not a role and a content"),
        ('{"messages": ["hello"]}', "message 1 is hello, not a role and a content of text"),
        (
            '{"messages": [{"role": "user", "content": "x"}, {"role": "tool", "content": "x"}]}',
            "message 2 has role 'tool', not one of system, user, assistant",
        ),
    ],
)
def test_wrong_chat_row_is_refused_with_its_number(write, tmp_path, tokenizer_dir, row, message):
    path = write("in/a.jsonl", lines(make_chats(2)) + row + "\n")
    with pytest.raises(DataError, match=rf"a\.jsonl, row 3: .*{message}"):
        prepare(config_of(path), tokenizer_dir, tmp_path / "ds")


@pytest.mark.parametrize(("policy", "left"), [("replace", 21), ("skip", 20)])
def test_half_surrogate_pairs_in_a_chat_are_bad_text(write, tmp_path, tokenizer, tokenizer_dir, policy, left):
    bad = '{"messages": [{"role": "assistant", "content": "a\\ud83db"}]}\n'
    path = write("in/a.jsonl", bad + lines(make_chats(20)))
    manifest, _ = prepare(config_of(path, bad_utf8=policy), tokenizer_dir, tmp_path / "ds")
    assert sum(split["documents"] for split in manifest.details["splits"].values()) == left
    assert manifest.details["bad_utf8"]["sequences"] == 1


@pytest.mark.parametrize("name", ["a.txt", "a.parquet"])
def test_only_json_lines_hold_chats(write, tmp_path, tokenizer_dir, name):
    path = write(f"in/{name}", ["x"] if name == "a.parquet" else "x")
    with pytest.raises(DataError, match=r"has an unknown extension .*chat is \.jsonl \(also"):
        prepare(config_of(path), tokenizer_dir, tmp_path / "ds")
    with pytest.raises(DataError, match=r"has no text, .*put in \.jsonl \(also"):
        prepare(config_of(path.parent), tokenizer_dir, tmp_path / "ds")
    with pytest.raises(DataError, match="stdlib:// is not a source of format chat"):
        prepare(config_of("stdlib://"), tokenizer_dir, tmp_path / "ds")


def test_open_detects_a_changed_mask_file(write, tmp_path, tokenizer_dir):
    prepare(config_of(write("in/a.jsonl", lines(make_chats(50)))), tokenizer_dir, tmp_path / "ds")
    dataset = TokenDataset.open(tmp_path / "ds")
    path = tmp_path / "ds" / "shards" / "train-00000.msk"
    good = path.read_bytes()
    path.write_bytes(bytes([1 - good[0]]) + good[1:])
    with pytest.raises(ArtifactError, match=r"train-00000\.msk has sha256"):
        TokenDataset.open(tmp_path / "ds")
    with pytest.raises(ArtifactError, match=r"train-00000\.msk should mark \d+ tokens with 1"):
        verify_shards(dataset)
    path.write_bytes(good[:-1])
    with pytest.raises(ArtifactError, match=r"train-00000\.msk has \d+ bytes"):
        TokenDataset.open(tmp_path / "ds")


def test_parse_messages_keeps_role_and_content():
    row = {"messages": [{"role": "user", "content": "a", "name": "b"}, {"role": "assistant", "content": "c"}]}
    messages = parse_messages(row, "messages")
    assert messages == [Message("user", "a"), Message("assistant", "c")]
    assert chat_sha256(messages) != chat_sha256([Message("user", "ac"), Message("assistant", "")])
