"""What benchmarks/stories.py says of samples: it finds words, sentences, contradictions and copies."""

import importlib
from pathlib import Path

import pytest

from candlewick.data.text.stories.generate import write_story

STORIES = [write_story(6, number) for number in range(60)]


@pytest.fixture(scope="module")
def bench():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).resolve().parents[2] / "benchmarks"))
        yield importlib.import_module("stories")


def test_stories_and_their_beginnings_score_full(bench):
    assert bench.score(STORIES, frozenset()) == {
        "known_words": 1, "sentences": 1, "consistent": 1, "copies": 0,
    }  # fmt: skip
    cut = [story[: len(story) * 2 // 3] for story in STORIES]
    assert bench.score(cut, frozenset(STORIES))["consistent"] == 1
    assert bench.score(STORIES, frozenset(STORIES))["copies"] == 1


def test_a_foreign_name_is_a_contradiction_of_good_sentences(bench):
    stories = [story for story in STORIES if story.count("Tom") > 1 or story.count("Lena") > 1]
    changed = ["Gus".join(story.rsplit("Tom", 1)) for story in stories if "Tom" in story]
    changed += ["Lily".join(story.rsplit("Lena", 1)) for story in stories if "Lena" in story]
    found = bench.score(changed, frozenset())
    assert changed
    assert (found["known_words"], found["sentences"], found["consistent"]) == (1, 1, 0)


def test_unknown_words_and_broken_sentences_are_counted(bench):
    assert bench.score(["This is the storp of Tom, a brave boy from Oakham. Tom ."], frozenset()) == {
        "known_words": 11 / 12, "sentences": 0, "consistent": 0, "copies": 0,
    }  # fmt: skip
    assert bench.score(["no end"], frozenset())["consistent"] == 0
