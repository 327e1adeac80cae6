"""stories://COUNT@SEED is a file of stories in the cache."""

import pytest

from candlewick.artifacts.manifest import read_manifest
from candlewick.config import DataConfig
from candlewick.data.text.find import open_text
from candlewick.data.text.stories import source as stories
from candlewick.data.text.stories.generate import write_story
from candlewick.errors import ConfigError, DataError


def texts(uri, cache):
    return [
        document.text for document in open_text([uri], DataConfig(cache_dir=cache, text_field="x")).documents()
    ]


def test_the_documents_are_the_stories_in_order(tmp_path):
    assert texts("stories://30@4", tmp_path) == [write_story(4, number) for number in range(30)]
    assert texts("stories://30", tmp_path) == [write_story(0, number) for number in range(30)]
    corpus = open_text(["stories://30@4"], DataConfig(cache_dir=tmp_path))
    assert [file.name for file in corpus.files] == ["stories://30@4"]
    assert len(list(tmp_path.glob("stories-*"))) == 2  # each count and seed has a folder of its own


def test_without_a_count_there_are_20_000(tmp_path, monkeypatch):
    monkeypatch.setattr(stories, "write_story", lambda seed, number: f"{seed} {number}")
    assert texts("stories://", tmp_path) == [f"0 {number}" for number in range(20_000)]
    assert texts("stories://@5", tmp_path)[-1] == "5 19999"


def test_stories_are_written_once(tmp_path, monkeypatch):
    first = open_text(["stories://5"], DataConfig(cache_dir=tmp_path))
    monkeypatch.setattr(stories, "write_story", None)
    again = open_text(["stories://5@0"], DataConfig(cache_dir=tmp_path))
    assert again.files == first.files
    (folder,) = tmp_path.glob("stories-*")
    assert read_manifest(folder, "stories").config == {"count": 5, "seed": 0}


@pytest.mark.parametrize(
    "uri", ["stories://0", "stories://x", "stories://5@", "stories://-1", "stories://9999999999"]
)
def test_another_uri_is_refused(uri, tmp_path):
    with pytest.raises(DataError, match=r"names no stories \(fix: write stories://, or stories://COUNT@SEED"):
        open_text([uri], DataConfig(cache_dir=tmp_path))
    assert not list(tmp_path.iterdir())


def test_stories_need_a_cache():
    with pytest.raises(ConfigError, match=r"no folder to keep stories:// in \(fix: set data.cache_dir"):
        open_text(["stories://"], DataConfig())
