"""A story is a function of seed and number, and reads like one."""

import hashlib
import os
import re
import subprocess
import sys
from collections import Counter

from candlewick.data.text.stories.generate import write_story

STORIES = [write_story(0, number) for number in range(500)]
CODE = """
import hashlib, sys
from candlewick.data.text.stories.generate import write_story
stories = "".join(write_story(0, number) for number in reversed(range(500)))
sys.stdout.write(hashlib.sha256(stories.encode()).hexdigest())
"""


def test_stories_are_the_same_bytes_everywhere():
    assert (
        hashlib.sha256("".join(STORIES).encode()).hexdigest()
        == "c7ebb4468eb5eb4475051cb54f15dda508641ed12ce7e1e13cf94f638428fa50"
    )
    expected = hashlib.sha256("".join(reversed(STORIES)).encode()).hexdigest()
    run = subprocess.run(
        [sys.executable, "-c", CODE],
        env={**os.environ, "PYTHONHASHSEED": "7"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout == expected


def test_seed_and_number_both_change_the_story():
    numbers = [(0, 0), (0, 1), (1, 0), (10, 1), (1, 101), (0, 10**12), (2**62, 5)]
    assert len({write_story(*pair) for pair in numbers}) == len(numbers)
    assert len(set(STORIES)) == len(STORIES)


def test_choices_follow_the_bits():
    """Of 28 openings, 4 have codes of 4 bits and 24 of 5."""
    starts = Counter(
        next(re.finditer(r"(Once upon a time|In (?!a )[A-Z]|.)", write_story(1, n)))[0] for n in range(4000)
    )
    assert 4000 / 32 * 0.7 < starts["Once upon a time"] < 4000 / 16 * 1.3


def test_stories_are_english_sentences():
    for story in STORIES:
        assert story.isascii()
        assert re.match(r'[A-Z"]', story)
        assert re.search(r'[.!?]"?$', story)
        assert story.count('"') % 2 == 0
        assert not re.search(r"  |[{}_^]| [,.!?]|\ba [aeiou]|\ban [^aeiou]", story), story
        assert not re.search(r'[.!?]"? [a-z]', re.sub(r'[!?,]" ', "", story)), story


def test_facts_of_a_story_stay_the_same():
    for story in STORIES:
        assert len(set(re.findall(r"\b(?:Adam|Ben|Emma|Lily|Tom|Rosa|Mia)\b", story))) <= 1
        assert not (re.search(r"\bboy\b|\bson\b", story) and re.search(r"\bher\b", story)), story
