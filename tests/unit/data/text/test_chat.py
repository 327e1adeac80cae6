import datetime
import json
import random
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.prepared import prepare_tokens as prepare

from candlewick.config import DataConfig
from candlewick.data.text.chat import Message, chat_columns, chat_text, has_conversation, parse_messages
from candlewick.data.text.file_ranges import SPLITS, Split
from candlewick.data.text.holdout import document_split
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
    count = manifest.details["splits"]["train"]["documents"]
    assert 170 < count < 190
    assert read_back(tmp_path / "ds", "train") == expected(own, chats[:count])
    assert read_back(tmp_path / "ds", "validation") == expected(own, chats[count:])
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
    contents = [chat_text([Message(turn["role"], turn["content"]) for turn in chat]) for chat in chats]
    sides = [document_split(text, 0.2) for text in contents]
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
    left_out = manifest.details["left_out"]
    assert (left_out["duplicates"], left_out["unanswered"], left_out["bad rows"]) == (4, 1, 0)
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
        ('{"prompt": 3, "completion": "x"}', "prompt or completion is 3, not text"),
        ('{"messages": []}', "no list of messages under 'messages', only messages"),
        ('{"messages": [{"role": "user"}]}', r"message 1 is \{'role': 'user'\}, not a role and a content"),
        ('{"messages": ["hello"]}', "message 1 is hello, not a role and a content of text"),
        (
            '{"messages": [{"role": "user", "content": "x"}, {"role": "judge", "content": "x"}]}',
            "message 2 has role 'judge', not one of system, user, assistant, tool",
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


@pytest.mark.parametrize("name", ["a.txt", "a.csv", "a.json"])
def test_text_without_chats_is_refused(write, tmp_path, tokenizer_dir, name):
    path = write(f"in/{name}", '{\n "messages": []\n}' if name == "a.json" else "messages\nx\n")
    with pytest.raises(DataError, match=r"plain text or a table of texts, without chats .*give \.jsonl, \.json"):
        prepare(config_of(path), tokenizer_dir, tmp_path / "ds")
    with pytest.raises(DataError, match=r"has no text .*left out: 1 plain text"):
        prepare(config_of(path.parent), tokenizer_dir, tmp_path / "ds")
    with pytest.raises(DataError, match="stdlib:// is not a source of format chat"):
        prepare(config_of("stdlib://"), tokenizer_dir, tmp_path / "ds")


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow", "a.json", "a.json.gz"])
def test_chats_of_every_format_give_the_same_tokens(write, tmp_path, tokenizer_dir, name):
    chats, path = make_chats(50), tmp_path / "in" / name
    prepare(config_of(write("lines.jsonl", lines(chats))), tokenizer_dir, tmp_path / "lines")
    rows = [{"id": number, "messages": chat} for number, chat in enumerate(chats)]
    write(f"in/{name}", json.dumps(rows))
    if name == "a.parquet":
        pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=7)
    elif name == "a.arrow":
        with pa.ipc.new_stream(str(path), pa.Table.from_pylist(rows).schema) as writer:
            writer.write_table(pa.Table.from_pylist(rows), max_chunksize=7)
    prepare(config_of(path), tokenizer_dir, tmp_path / "ds")
    for split in SPLITS:
        assert read_back(tmp_path / "ds", split) == read_back(tmp_path / "lines", split)


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


USER, REPLY = Message("user", "a"), Message("assistant", "b")
CALL = {"function": {"name": "add", "arguments": {"x": 1}, "id": "7"}}
CALLED = '<tool_call>\n{"name": "add", "arguments": {"x": 1}}\n</tool_call>'


def said(role: str, content: Any, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


def turn(speaker: str, value: str) -> dict[str, str]:
    return {"from": speaker, "value": value}


PARSED: list[tuple[str, dict[str, Any], list[Message]]] = [
    ("messages", {"messages": [said("user", "a", name="n"), said("assistant", "b")]}, [USER, REPLY]),
    ("sharegpt", {"conversations": [turn("human", "a"), turn("gpt", "b")]}, [USER, REPLY]),
    ("conversation", {"conversation": [turn("user", "a"), turn("bot", "b")]}, [USER, REPLY]),
    ("prompt", {"prompt": "a", "completion": "b"}, [USER, REPLY]),
    (
        "prompt of messages",
        {"prompt": [said("system", "s"), said("user", "a")], "completion": [said("assistant", "b")]},
        [Message("system", "s"), USER, REPLY],
    ),
    (
        "tool roles",
        {"messages": [said(name, "r") for name in ("tool", "function", "observation")]},
        [Message("tool", "r")] * 3,
    ),
    (
        "parts",
        {"messages": [said("user", [{"type": "text", "text": "a"}, {"text": "!"}])]},
        [Message("user", "a!")],
    ),
    (
        "calls",
        {"messages": [said("assistant", None, tool_calls=[CALL])]},
        [Message("assistant", CALLED)],
    ),
    (
        "calls behind a content",
        {"messages": [said("assistant", "Wait.", tool_calls=[CALL["function"], CALL])]},
        [Message("assistant", f"Wait.\n{CALLED}\n{CALLED}")],
    ),
    (
        "calls behind an empty content",
        {"messages": [said("model", "", tool_calls=[CALL])]},
        [Message("assistant", CALLED)],
    ),
    ("no calls", {"messages": [said("assistant", "b", tool_calls=[])]}, [REPLY]),
    ("nulls of a table", {"messages": [said("user", "a", value=None, **{"from": None})]}, [USER]),
]


@pytest.mark.parametrize(("row", "messages"), [case[1:] for case in PARSED], ids=[case[0] for case in PARSED])
def test_messages_of_every_layout_are_parsed(row, messages):
    assert parse_messages(row, "messages") == messages
    assert has_conversation(row, "messages")


@pytest.mark.parametrize(
    "content",
    [None, 3, {"text": "a"}, [{"type": "image", "url": "x"}], [{"text": "a"}, "b"], [{"text": None}], ["a"]],
)
def test_content_that_is_not_text_is_refused(content):
    row = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": content}]}
    with pytest.raises(ValueError, match="message 2 is .*, not a role and a content of text"):
        parse_messages(row, "messages")


def test_arguments_of_a_call_may_be_anything():
    odd = [{"name": "f", "arguments": datetime.date(2020, 1, 2)}]
    (message,) = parse_messages({"messages": [{"role": "assistant", "tool_calls": odd}]}, "messages")
    assert '"arguments": "2020-01-02"' in message.content
    with pytest.raises(ValueError, match="message 1"):
        parse_messages({"messages": [{"role": "assistant", "tool_calls": ["f"]}]}, "messages")


def test_the_field_of_the_settings_comes_first():
    row = {"turns": [{"role": "user", "content": "a"}], "messages": [{"role": "user", "content": "b"}]}
    assert parse_messages(row, "turns") == [USER]
    assert parse_messages(row, "gone") == [Message("user", "b")]
    assert chat_columns(["id", "messages", "turns"], "turns") == ["turns"]
    assert chat_columns(["id", "conversations"], "turns") == ["conversations"]
    assert chat_columns(["prompt", "completion", "id"], "turns") == ["prompt", "completion"]
    assert chat_columns(["prompt"], "turns") == ["turns"]
    assert not has_conversation({"turns": "text", "prompt": "x"}, "turns")


def test_chat_text_tells_speakers_apart():
    assert chat_text([USER, REPLY]) != chat_text([Message("user", "ab"), Message("assistant", "")])


def test_chat_text_does_not_depend_on_the_system_prompt():
    assert chat_text([Message("system", "Be brief."), USER, REPLY]) == chat_text([USER, REPLY])
