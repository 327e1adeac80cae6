from dataclasses import replace

import pytest

from candlewick.checkpoint.layout import find_checkpoints
from candlewick.config import SampleConfig
from candlewick.errors import CheckpointError, ConfigError, DataError, TokenizerError
from candlewick.runs.generate import TextGenerator, model_sampling, read_prompts
from candlewick.tokenizer.bpe import Tokenizer

CONFIG = SampleConfig(max_new_tokens=6)


def load(checkpoint, draft=None, draft_tokens=4, page_size=None):
    return TextGenerator.load(checkpoint, "cpu", draft=draft, draft_tokens=draft_tokens, page_size=page_size)


@pytest.fixture
def generator(trained):
    return load(trained)


def test_results_come_in_the_order_of_prompts_and_seeds(generator):
    prompts = ["The man and", "A", "The dog and"]  # two lengths, so batches end in another order
    results = list(generator.generate(prompts, CONFIG, (3, 4), is_chat=False, logprobs=None))
    expected = [(prompt, seed) for prompt in prompts for seed in (3, 4)]
    assert [(result["prompt"], result["seed"]) for result in results] == expected
    for result in results:
        assert "".join(generator.stream(result["prompt"], CONFIG, result["seed"], is_chat=False)) == result["text"]


def test_prompt_that_is_too_long_is_refused_before_the_first_text(generator):
    results = generator.generate(["A", "x" * 100], CONFIG, (0,), is_chat=False, logprobs=None)
    with pytest.raises(ConfigError, match="the prompt has 101 tokens, this model reads 1 to 32"):
        next(results)


def test_chat_prompt_is_encoded_as_a_message_of_the_user(generator, chatting):
    answer = "".join(load(chatting).stream("Why?", CONFIG, 1, is_chat=True))
    assert answer != "".join(load(chatting).stream("Why?", CONFIG, 1, is_chat=False))
    with pytest.raises(TokenizerError, match="the tokenizer has no tokens for chats"):
        generator.stream("Why?", CONFIG, 1, is_chat=True)


def test_draft_with_another_tokenizer_is_refused_with_both_hashes(trained, chatting):
    with pytest.raises(CheckpointError) as caught:
        load(trained, draft=chatting)
    for folder in (find_checkpoints(trained)[0], chatting):
        assert Tokenizer.load(folder).sha256[:16] in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "prompts"),
    [
        ("p.txt", "A\n\nB", ["A", "", "B"]),
        ("p.TXT", "A\n\n", ["A", ""]),
        ("p.txt", "", []),
        ("p.JSONL", '{"prompt": "A"}\n{"prompt": "", "id": 1}\n', ["A", ""]),
    ],
)
def test_read_prompts_takes_lines_or_json(tmp_path, name, content, prompts):
    (tmp_path / name).write_text(content)
    assert read_prompts(tmp_path / name) == prompts


@pytest.mark.parametrize(
    "content", [b"{}\n", b"[1]\n", b"nothing\n", b'{"prompt": 1}\n', b'{"prompt": "\xff"}\n', b"\n"]
)
def test_read_prompts_refuses_a_file_without_prompts(tmp_path, content):
    (tmp_path / "p.jsonl").write_bytes(content)
    with pytest.raises(DataError, match=r"p\.jsonl"):
        read_prompts(tmp_path / "p.jsonl")


def test_read_prompts_refuses_another_kind_of_file(tmp_path):
    (tmp_path / "p.json").write_text('{"prompt": "A"}')
    with pytest.raises(ConfigError, match=r"give a \.txt or \.jsonl file"):
        read_prompts(tmp_path / "p.json")


@pytest.mark.parametrize(
    ("generation", "sampling"),
    [
        ({}, {}),
        ({"eos_token_id": [1, 2], "repetition_penalty": 1.5}, {"repetition_penalty": 1.5}),
        ({"do_sample": False, "temperature": 0.6, "top_k": 50}, {"temperature": 0.0, "top_k": 50}),
        ({"do_sample": True}, {"temperature": 1.0, "top_k": 50}),
        ({"do_sample": True, "temperature": 0.6, "top_p": 0.9, "top_k": 0}, {"temperature": 0.6, "top_p": 0.9}),
        ({"do_sample": True, "top_k": 20, "min_p": 0.1, "top_p": 1.0}, {"top_k": 20, "min_p": 0.1}),
    ],
)
def test_model_is_sampled_as_its_generation_config_says(generation, sampling):
    defaults = {"temperature": 1.0, "top_k": None, "top_p": None, "min_p": None, "repetition_penalty": 1.0}
    found = model_sampling(generation)
    assert found == (defaults | sampling if "do_sample" in generation else sampling)


def test_flags_come_before_generation_config_and_it_before_our_defaults(generator, caplog):
    of_model = {"do_sample": True, "temperature": 0.6, "top_p": 0.9}
    theirs = replace(generator, tokenizer=generator.tokenizer.with_generation(of_model))
    with caplog.at_level("INFO"):
        found = theirs.sampling({"temperature": 0.3, "max_new_tokens": 9})
    assert (found.temperature, found.top_p, found.top_k, found.max_new_tokens) == (0.3, 0.9, 50, 9)
    assert "sampling as generation_config.json says: " in caplog.text
    assert "top_p 0.9" in caplog.text
    assert generator.sampling({}) == SampleConfig()  # our own models are saved with our defaults
    damaged = replace(generator, tokenizer=generator.tokenizer.with_generation({"temperature": "hot"}))
    with pytest.raises(ConfigError, match=r"generation_config\.json: .*temperature.*give other values as flags"):
        damaged.sampling({})


def test_text_ends_at_each_end_token_of_the_model(generator):
    config = SampleConfig(max_new_tokens=20, temperature=0.0)
    (result,) = generator.generate(["The man"], config, (0,), is_chat=False, logprobs=0)
    assert len(result["tokens"]) == 20
    ends = {"eos_token_id": [result["tokens"][4]["id"], 1]}
    theirs = replace(generator, tokenizer=generator.tokenizer.with_generation(ends))
    (shorter,) = theirs.generate(["The man"], config, (0,), is_chat=False, logprobs=0)
    assert result["text"].startswith(shorter["text"])
    assert len(shorter["tokens"]) <= 5
