import json
import re

import pytest

from candlewick.cli.main import main


@pytest.fixture
def generate(trained, run_candlewick):
    """Generate with a trained run; return what is printed."""
    return lambda *words: run_candlewick("generate", trained, *words).out


def test_generate_prints_the_prompt_and_new_text(generate):
    out = generate("The man", "--max-new-tokens", "8")
    assert out.startswith("The man")
    assert out.endswith("\n")
    assert len(out) > len("The man") + 1


def test_generate_depends_on_the_seed_except_at_temperature_0(generate):
    out = [generate("--seed", seed) for seed in ("1", "1", "2")]
    assert out[0] == out[1] != out[2]
    greedy = [generate("The", "--temperature", "0", "--seed", seed) for seed in ("1", "2")]
    assert greedy[0] == greedy[1] == generate("The", "--top-k", "1") == generate("The", "--top-p", "1e-9")
    assert greedy[0] == generate("The", "--min-p", "1")


def test_generate_json_has_the_result(generate):
    words = ("The", "--max-new-tokens", "4", "--seed", "5", "--top-k", "0")
    result = json.loads(generate(*words, "--json"))
    assert result == {
        "prompt": "The",
        "text": generate(*words)[3:-1],
        "seed": 5,
        "num_tokens": 4,
        "stop": "length",
    }


def test_generate_ends_before_a_stop_text_and_applies_a_repetition_penalty(generate, core_row):
    text = json.loads(generate("The", "--json"))["text"]
    stopped = json.loads(generate("The", "--json", "--stop", text[5:8], "--stop", "?!"))
    missed = len(stopped["text"]) - text.index(text[5:8])
    core_row("runtime.sample.stop", "the whole text cut at its first place; characters", abs(missed), 0)
    assert text.startswith(stopped["text"])
    assert stopped["stop"] == "text"
    assert json.loads(generate("The", "--json", "--repetition-penalty", "5"))["text"] != text


def test_generate_says_how_fast_it_was_and_when_the_context_is_full(trained, run_candlewick):
    words = ("generate", trained, "The", "--max-new-tokens")
    full = "stopped: the context of 32 tokens is full"
    assert re.fullmatch(rf"{full}\n[\d,.]+ tokens/s\n", run_candlewick(*words, "90", "--stop", "?!?").err)
    assert re.fullmatch(r"[\d,.]+ tokens/s\n", run_candlewick(*words, "3").err)
    assert run_candlewick(*words, "90", "--quiet").err == ""
    shown = run_candlewick(*words, "90", "--samples", "2", "--json")
    assert [result["stop"] for result in json.loads(shown.out)] == ["context"] * 2
    assert f"{full} in 2 of 2 texts\n" in shown.err


def test_generate_samples_use_consecutive_seeds(generate):
    words = ("The", "--max-new-tokens", "6")
    alone = [json.loads(generate(*words, "--json", "--seed", seed)) for seed in (3, 4, 5)]
    together = ("--samples", "3", "--seed", "3")
    assert json.loads(generate(*words, *together, "--json")) == alone
    assert generate(*words, *together) == "".join(f"--- seed {r['seed']}\nThe{r['text']}\n" for r in alone)


def test_generate_logprobs_are_part_of_the_json_result(generate):
    result = json.loads(generate("The", "--json", "--logprobs", "2", "--max-new-tokens", "3"))
    assert "".join(token["text"] for token in result["tokens"]) == result["text"]
    assert [len(token["top"]) for token in result["tokens"]] == [2, 2, 2]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("p.txt", "The man\nA\n\nThe dog"),
        ("p.txt", "The man\nA\n\nThe dog\n"),
        ("p.jsonl", "".join(json.dumps({"prompt": p, "id": 1}) + "\n" for p in ("The man", "A", "", "The dog"))),
    ],
)
def test_generate_writes_results_of_a_prompt_file_in_order(generate, tmp_path, name, content):
    (tmp_path / name).write_text(content)
    words = ("--max-new-tokens", "5", "--seed", "2")
    expected = [json.loads(generate(p, *words, "--json")) for p in ("The man", "A", "", "The dog")]
    out = generate("--prompts", tmp_path / name, *words)
    assert [json.loads(line) for line in out.splitlines()] == expected
    assert generate("--prompts", tmp_path / name, *words, "--output", tmp_path / "out") == ""
    assert (tmp_path / "out").read_text() == out


def test_generate_with_a_draft_gives_the_same_greedy_text(generate, trained):
    words = ("The", "--temperature", "0", "--max-new-tokens", "10", "--json")
    plain, fast = json.loads(generate(*words)), json.loads(generate(*words, "--draft", trained))
    assert fast.pop("acceptance_rate") == 1
    assert fast == plain
    two = json.loads(generate(*words, "--draft", trained, "--draft-tokens", "2", "--samples", "2"))
    assert [result["text"] for result in two] == [plain["text"]] * 2


def test_generate_with_a_paged_cache_gives_the_same_text(generate, trained):
    words = ("The", "--max-new-tokens", "12", "--samples", "2", "--json")
    for more in ((), ("--draft", trained)):
        assert generate(*words, *more) == generate(*words, *more, "--kv-page-size", "4")


def test_generate_answers_a_chat_without_repeating_the_question(chatting, capsys):
    words = ["generate", str(chatting), "--chat", "Why?", "--max-new-tokens", "6"]
    assert main(words) == 0
    shown = capsys.readouterr().out
    assert main([*words, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["prompt"] == "Why?"
    assert shown == result["text"] + "\n"


def test_generate_escapes_terminal_control_characters(generate, monkeypatch):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setattr("candlewick.tokenizer.bpe.Tokenizer.decode", lambda *_, **__: "\x1b[2J")
    assert "\x1b" not in generate("--max-new-tokens", "2")


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--top-p", "2"], 2, "--top-p: Input should be less than or equal to 1"),
        (["--top-k", "-1"], 2, "--top-k: Input should be greater than or equal to 1"),
        (["--temperature", "nan"], 2, "--temperature"),
        (["--min-p", "0"], 2, "--min-p"),
        (["--repetition-penalty", "0"], 2, "--repetition-penalty"),
        (["--stop", ""], 2, "--stop"),
        (["--max-new-tokens", "0"], 2, "--max-new-tokens"),
        (["--seed", "-1"], 2, "--seed"),
        (["--samples", "0"], 2, "--samples"),
        (["--kv-page-size", "0"], 2, "--kv-page-size: '0' is not a whole number from 1 on"),
        (["x" * 100], 2, "the prompt has 101 tokens, this model reads 1 to 32"),
        (["\udcff"], 3, "half a surrogate pair"),
        (["hello", "--chat", "hello"], 2, "exclude each other"),
        (["--chat", "hello", "--prompts", "x"], 2, "exclude each other"),
        (["--output", "x"], 2, "--output is for the texts of --prompts"),
        (["--logprobs", "1"], 2, "add --json"),
        (["--prompts", "/nowhere.txt"], 2, "/nowhere.txt"),
        (["--chat", "hello"], 3, "the tokenizer has no tokens for chats"),
    ],
)
def test_generate_refuses_impossible_requests_in_one_line(trained, capsys, words, code, said):
    assert main(["generate", str(trained), *words]) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert said in captured.err


def test_generate_exits_3_for_a_file_without_prompts(trained, capsys, tmp_path):
    (tmp_path / "p.jsonl").write_text("{}\n")
    assert main(["generate", str(trained), "--prompts", str(tmp_path / "p.jsonl")]) == 3
    assert "p.jsonl holds no prompts" in capsys.readouterr().err


def test_generate_exits_3_for_a_draft_with_another_tokenizer(trained, chatting, capsys):
    assert main(["generate", str(trained), "--draft", str(chatting)]) == 3
    assert "draft with a model that was trained with the same tokenizer" in capsys.readouterr().err


def test_generate_output_file_keeps_first_texts_after_a_stop_and_old_ones_after_an_error(
    trained, tmp_path, monkeypatch
):
    def interrupted(*_):
        for number, text in ((1, "b"), (0, "a"), (3, "d")):
            yield number, {"text": text, "stop": "end", "num_tokens": 1}
        raise KeyboardInterrupt

    (tmp_path / "p.txt").write_text("A\nB\nC\nD\n")
    words = ["generate", str(trained), "--prompts", str(tmp_path / "p.txt"), "--output", str(tmp_path / "out")]
    monkeypatch.setattr("candlewick.runs.generate.generate_texts", interrupted)
    assert main(words) == 5
    assert [json.loads(line)["text"] for line in (tmp_path / "out").read_text().splitlines()] == ["a", "b"]
    monkeypatch.undo()
    (tmp_path / "p.txt").write_text("A\n" + "x" * 100)
    assert main(words) == 2
    assert (tmp_path / "out").read_text().count("\n") == 2
