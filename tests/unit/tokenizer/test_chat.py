import json

import numpy as np
import pytest
from tests import foreign

from candlewick.errors import TokenizerError
from candlewick.tokenizer.bpe import Tokenizer
from candlewick.tokenizer.chat import ChatTokens, encode_chat
from candlewick.tokenizer.encoder import FastEncoder, ReferenceEncoder

MESSAGES = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "2 + 2?"},
    {"role": "assistant", "content": "It's 4."},
    {"role": "assistant", "content": "Or 日本語."},
]


@pytest.fixture(scope="module")
def chat(tokenizer) -> Tokenizer:
    return tokenizer.with_chat_tokens()


def test_with_chat_tokens_appends_two_tokens_and_keeps_the_others(tokenizer, chat, odd_texts):
    assert tokenizer.chat_ids is None
    assert chat.chat_ids == (tokenizer.vocab_size, tokenizer.vocab_size + 1)
    assert chat.vocab_size == tokenizer.vocab_size + 2
    assert chat.with_chat_tokens() is chat
    assert Tokenizer(chat.json_bytes).sha256 == chat.sha256 == tokenizer.with_chat_tokens().sha256
    texts = [*odd_texts(3, 50), "<|im_start|>user\n<|im_end|>"]
    for text in texts:
        assert chat.encode(text) == tokenizer.encode(text)
    for encoder in (FastEncoder, ReferenceEncoder):
        ids, _ = encoder(chat.json_bytes).encode(texts)
        assert ids.tolist() == [i for text in texts for i in tokenizer.encode(text)]


def test_with_chat_tokens_adds_only_the_missing_token(chat):
    tree = json.loads(chat.json_bytes)
    tree["added_tokens"].pop()
    half = Tokenizer(json.dumps(tree).encode())
    assert half.chat_ids is None
    assert half.with_chat_tokens().chat_ids == chat.chat_ids


def test_chat_template_is_written_with_chat_tokens_only(tokenizer, chat, tmp_path):
    for number, (own, has) in enumerate([(tokenizer, False), (chat, True)]):
        (tmp_path / str(number)).mkdir()
        own.write(tmp_path / str(number))
        written = json.loads((tmp_path / str(number) / "tokenizer_config.json").read_bytes())
        assert ("chat_template" in written) is has


def test_encode_chat_masks_everything_but_answers(chat):
    ids, mask = encode_chat(chat, MESSAGES)
    assert len(ids) == len(mask)
    assert chat.decode(ids, skip_special=False) == (
        "<|endoftext|><|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n2 + 2?<|im_end|>\n"
        "<|im_start|>assistant\nIt's 4.<|im_end|>\n<|im_start|>assistant\nOr 日本語.<|im_end|>\n"
    )
    learned = chat.decode([i for i, counts in zip(ids, mask, strict=True) if counts], skip_special=False)
    assert learned == "It's 4.<|im_end|>Or 日本語.<|im_end|>"


def test_encode_chat_prompt_is_a_prefix_of_the_conversation(chat):
    prompt, mask = encode_chat(chat, MESSAGES[:2], add_generation_prompt=True)
    whole, learned = encode_chat(chat, MESSAGES)
    assert whole[: len(prompt)] == prompt
    assert not any(mask)
    assert learned.index(1) == len(prompt)


@pytest.mark.parametrize("content", ["\n\n  two", "", "  x", "\r\n", "\n"])
def test_encode_chat_masks_a_token_across_the_border(chat, content):
    ids, mask = encode_chat(chat, [{"role": "assistant", "content": content}])
    learned = chat.decode([i for i, counts in zip(ids, mask, strict=True) if counts], skip_special=False)
    assert (content + "<|im_end|>").endswith(learned)
    assert learned.endswith("<|im_end|>")


def test_chat_header_of_single_byte_tokens_is_recognized(chat):
    tokens = ChatTokens(chat)
    single = np.array([i for char in "user\nx" for i in chat.encode(char)])
    assert tokens.header_tokens(single, "user") == 5


def test_encode_chat_refuses_a_tokenizer_without_chat_tokens(tokenizer):
    with pytest.raises(TokenizerError, match="has no tokens for chats"):
        encode_chat(tokenizer, MESSAGES)


@pytest.mark.parametrize("kind", ["candle", "candle_full", "llama2"])
def test_chat_tokens_refuse_a_lossy_tokenizer(kind, tmp_path):
    foreign.write(kind, tmp_path)
    with pytest.raises(
        TokenizerError, match="is not one for chats: it changes text, or a line end is not one token"
    ):
        ChatTokens(Tokenizer.load(tmp_path).with_chat_tokens())


@pytest.mark.parametrize("kind", ["qwen2", "llama3", "candle_plain"])
def test_encode_chat_with_foreign_tokenizers_equals_apply_chat_template(kind, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    transformers = pytest.importorskip("transformers")
    foreign.write(kind, tmp_path)
    found = Tokenizer.load(tmp_path).with_chat_tokens()
    found.write(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    messages = [{"role": "user", "content": "the of"}, {"role": "assistant", "content": "import\n"}]
    for is_open in (False, True):
        text = theirs.apply_chat_template(messages, tokenize=False, add_generation_prompt=is_open)
        ids, mask = encode_chat(found, messages, add_generation_prompt=is_open)
        assert theirs(text, add_special_tokens=False)["input_ids"] == ids
        assert (ids[0], ids[-1] == found.end_id) == (found.delimiter_id, not is_open and found.end_id is not None)
        assert (len(mask), sum(mask)) == (len(ids), len(found.encode("import\n")) + 1)
