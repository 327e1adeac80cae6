"""Turns with a model: what the prompt is, what is left out, what is kept and saved."""

import json

import pytest

from candlewick.config import SampleConfig
from candlewick.data.text.chat import parse_messages
from candlewick.errors import ConfigError, MachineError, TokenizerError
from candlewick.generate.engine import Engine, TextGeneration
from candlewick.runs.chat import Conversation, fit_messages
from candlewick.runs.generate import TextGenerator
from candlewick.tokenizer.chat import encode_chat

GREEDY = SampleConfig(max_new_tokens=6, temperature=0.0)


def turns(count):
    system = [{"role": "system", "content": "s"}]
    pairs = [({"role": "user", "content": f"q{n}"}, {"role": "assistant", "content": "a"}) for n in range(count)]
    return system + [message for pair in pairs for message in pair]


@pytest.fixture
def chat_tokenizer(tokenizer):
    return tokenizer.with_chat_tokens()


def test_the_oldest_turns_are_left_out_whole_and_the_system_message_stays(chat_tokenizer):
    messages = [*turns(3), {"role": "user", "content": "last"}]
    sizes = set()
    for limit in range(1, 120):
        ids, dropped = fit_messages(chat_tokenizer, messages, limit)
        kept = [messages[0], *messages[1 + 2 * dropped :]]
        assert ids == encode_chat(chat_tokenizer, kept, add_generation_prompt=True)[0]
        assert len(ids) <= limit or dropped == 3
        if dropped:
            more = [messages[0], *messages[2 * dropped - 1 :]]
            assert len(encode_chat(chat_tokenizer, more, add_generation_prompt=True)[0]) > limit
        sizes.add(dropped)
    assert sizes == {0, 1, 2, 3}


@pytest.mark.parametrize(
    ("messages", "problem"),
    [
        ([], "no message to answer"),
        ([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}], "no message to answer"),
        ([{"role": "robot", "content": "a"}], "is no message .*roles are system, user, assistant, tool"),
        ([{"content": "a"}], "is no message"),
    ],
)
def test_messages_of_another_form_are_refused(chat_tokenizer, messages, problem):
    with pytest.raises(ConfigError, match=problem):
        fit_messages(chat_tokenizer, messages, 99)


def test_messages_need_a_tokenizer_for_chats(tokenizer):
    with pytest.raises(TokenizerError, match="no tokens for chats"):
        fit_messages(tokenizer, [*turns(0), {"role": "user", "content": "a"}], 99)


def talk(chat, text, config=GREEDY):
    generation = chat.ask(text, config, 0)
    answer = "".join(generation)
    chat.keep(text, answer, generation.stop)
    return answer


def test_answers_are_those_of_the_same_prompts_read_alone(chatting):
    generator = TextGenerator.load(chatting, "cpu")
    chat, plain = Conversation(generator), Engine(generator.engine.model, generator.engine.num_tokens)
    for line in ("a", "b", "c"):
        room = 32 - GREEDY.max_new_tokens
        messages = [*chat.messages, {"role": "user", "content": line}]
        ids, left_out = fit_messages(chat.tokenizer, messages, room)
        expected = "".join(TextGeneration(plain, chat.tokenizer, ids, GREEDY, seed=0))
        assert talk(chat, line) == expected
        assert chat.num_left_out == left_out
    assert chat.num_left_out > 0


def test_first_answer_is_the_one_of_generate(chatting):
    generator = TextGenerator.load(chatting, "cpu")
    assert talk(Conversation(generator), "Hi") == "".join(generator.stream("Hi", GREEDY, 0, is_chat=True))


def test_base_model_continues_the_text_from_a_token_border(trained):
    generator = TextGenerator.load(trained, "cpu")
    chat, tokenizer = Conversation(generator), generator.tokenizer
    assert not chat.is_chat
    text, left_out = "", []
    for line in ("The man", " and the", "", " to be or not to be", " the man is"):
        ids = [tokenizer.delimiter_id, *tokenizer.encode(text + line)]
        generation = chat.ask(line, GREEDY, 0)
        left_out.append(chat.num_left_out)
        assert len(ids) - left_out[-1] <= 32 - GREEDY.max_new_tokens
        plain = TextGeneration(generator.engine, tokenizer, ids[left_out[-1] :], GREEDY, seed=0)
        answer = "".join(generation)
        assert answer == "".join(plain)
        chat.keep(line, answer, "length")
        text += line + answer
    assert left_out == sorted(left_out)
    assert left_out[-1] > 0
    assert all(count % 4 == 0 for count in left_out)
    assert chat.texts == [text]
    chat.keep("", ".", "end")
    assert chat.texts == [text + ".", ""]


def test_conversations_are_saved_as_chats_to_train_on(chatting, trained, tmp_path):
    chat = Conversation(TextGenerator.load(chatting, "cpu"), "S")
    assert chat.save(tmp_path / "chats.jsonl") == 0
    answer = talk(chat, "é\n")
    for _ in range(2):
        assert chat.save(tmp_path / "chats.jsonl") == 1
    rows = [json.loads(line) for line in (tmp_path / "chats.jsonl").read_text("utf-8").splitlines()]
    assert len(rows) == 2
    expected = [("system", "S"), ("user", "é\n"), ("assistant", answer)]
    assert [tuple(message) for message in parse_messages(rows[0], "messages")] == expected
    chat.reset()
    assert (chat.messages, chat.num_answers) == ([{"role": "system", "content": "S"}], 0)
    base = Conversation(TextGenerator.load(trained, "cpu"))
    base.keep("a", "b", "end")
    base.keep("c", "d", "length")
    assert base.save(tmp_path / "texts.jsonl") == 2
    assert (tmp_path / "texts.jsonl").read_text() == '{"text": "ab"}\n{"text": "cd"}\n'


def test_conversation_refuses_a_system_message_without_chats_and_several_processes(trained, monkeypatch):
    generator = TextGenerator.load(trained, "cpu")
    with pytest.raises(ConfigError, match="leave --system out"):
        Conversation(generator, "Be brief.")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(MachineError, match="start one process"):
        Conversation(generator)
