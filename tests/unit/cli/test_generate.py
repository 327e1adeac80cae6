import json

import pytest

from candlewick.cli.main import main


@pytest.fixture
def generate(trained, capsys):
    """Generate with a trained run; return what is printed."""

    def run(*words: str) -> str:
        assert main(["generate", str(trained), *words]) == 0
        return capsys.readouterr().out

    return run


def test_text_follows_the_prompt(generate):
    out = generate("The man", "--max-new-tokens", "8")
    assert out.startswith("The man")
    assert out.endswith("\n")
    assert len(out) > len("The man") + 1


def test_the_seed_decides_and_temperature_0_needs_none(generate):
    out = [generate("--seed", seed) for seed in ("1", "1", "2")]
    assert out[0] == out[1] != out[2]
    greedy = [generate("The", "--temperature", "0", "--seed", seed) for seed in ("1", "2")]
    assert greedy[0] == greedy[1] == generate("The", "--top-k", "1") == generate("The", "--top-p", "1e-9")


def test_the_result_for_a_program(generate):
    words = ("The", "--max-new-tokens", "4", "--seed", "5", "--top-k", "0")
    result = json.loads(generate(*words, "--json"))
    assert result == {"prompt": "The", "text": generate(*words)[3:-1], "seed": 5}


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--top-p", "2"], 2, "--top-p: Input should be less than or equal to 1"),
        (["--top-k", "-1"], 2, "--top-k: Input should be greater than or equal to 1"),
        (["--temperature", "nan"], 2, "--temperature"),
        (["--max-new-tokens", "0"], 2, "--max-new-tokens"),
        (["--seed", "-1"], 2, "--seed"),
        (["x" * 100], 2, "the prompt has 101 tokens, this model reads 1 to 32"),
        (["\udcff"], 3, "half a surrogate pair"),
    ],
)
def test_what_cannot_be_generated(trained, capsys, words, code, said):
    assert main(["generate", str(trained), *words]) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert said in captured.err
