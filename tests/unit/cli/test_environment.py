"""Environment variables: the cache folder (XDG), the threads, the folders of cloud mode, the Hub."""

import hashlib
import io
import os
from pathlib import Path

import pytest

from candlewick.cli.environment import (
    adopt_hub_token,
    cache_home,
    cloud_roots,
    save_stdin,
    shorten_openmp_spin,
    use_hub,
)
from candlewick.errors import DataError, MachineError


def test_cache_home_uses_an_absolute_xdg_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_home() == tmp_path / "candlewick"


@pytest.mark.parametrize("given", [None, "", "relative/folder"])
def test_cache_home_falls_back_to_the_home_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, given: str | None
):
    monkeypatch.setenv("HOME", str(tmp_path))
    if given is None:
        monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    else:
        monkeypatch.setenv("XDG_CACHE_HOME", given)
    assert cache_home() == tmp_path / ".cache" / "candlewick"


def test_cache_home_without_a_home_folder_raises_with_the_fix(monkeypatch: pytest.MonkeyPatch):
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", no_home)
    with pytest.raises(MachineError, match=r"no home folder.*fix: set XDG_CACHE_HOME or data\.cache_dir"):
        cache_home()


def test_openmp_spin_count_is_shortened_unless_it_is_set(monkeypatch):
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    shorten_openmp_spin()
    assert os.environ["GOMP_SPINCOUNT"] == "10000"
    monkeypatch.setenv("GOMP_SPINCOUNT", "7")
    shorten_openmp_spin()
    assert os.environ["GOMP_SPINCOUNT"] == "7"


def test_cloud_folders_default_to_those_of_transformer_candle(monkeypatch, tmp_path):
    for name in ("RUNS", "CACHE", "TOKENIZER", "TRAIN", "VAL", "HF_CACHE"):
        monkeypatch.delenv(f"ORCHESTRATE_{name}_ROOT", raising=False)
    monkeypatch.delenv("HF_HOME", raising=False)
    assert cloud_roots() == {
        "RUNS": Path("/workspace/runs"),
        "CACHE": Path("/workspace/cache"),
        "TOKENIZER": Path("/workspace/artifacts/tokenizer"),
        "TRAIN": Path("/workspace/datasets/train"),
        "VAL": Path("/workspace/datasets/val"),
        "HF_CACHE": Path("/workspace/hf_cache"),
    }
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HOME", "/mine")
    monkeypatch.setenv("ORCHESTRATE_VAL_ROOT", "held")
    roots = cloud_roots()
    assert (roots["VAL"], roots["HF_CACHE"]) == (tmp_path / "held", Path("/mine"))
    monkeypatch.setenv("ORCHESTRATE_HF_CACHE_ROOT", "/theirs")
    assert cloud_roots()["HF_CACHE"] == Path("/theirs")


def test_hub_gets_token_and_download_folder_from_the_environment(monkeypatch, tmp_path):
    for name in ("HF_TOKEN", "HF_HOME", "HF_HUB_CACHE"):
        monkeypatch.setenv(name, "before")
    use_hub()
    assert {os.environ[name] for name in ("HF_TOKEN", "HF_HOME", "HF_HUB_CACHE")} == {"before"}
    use_hub(token="secret", home=tmp_path)
    assert (os.environ["HF_TOKEN"], os.environ["HF_HOME"]) == ("secret", str(tmp_path))
    assert os.environ["HF_HUB_CACHE"] == str(tmp_path / "hub")


@pytest.mark.parametrize(
    ("variables", "token"),
    [
        ({}, None),
        ({"HUGGINGFACEHUB_API_TOKEN": "a"}, "a"),
        ({"HUGGINGFACE_HUB_TOKEN": "b", "HF_TOKEN": ""}, "b"),
        ({"HUGGINGFACEHUB_API_TOKEN": "a", "HF_TOKEN": "c"}, "c"),
    ],
)
def test_hub_token_comes_from_the_variables_of_transformer_candle_too(monkeypatch, variables, token):
    for name in ("HF_TOKEN", "HUGGINGFACEHUB_API_TOKEN", "HUGGINGFACE_HUB_TOKEN"):
        monkeypatch.setenv(name, "")  # so that it is taken back
        monkeypatch.delenv(name)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    adopt_hub_token()
    assert os.environ.get("HF_TOKEN") == token


class TestStandardInput:
    @pytest.fixture
    def pipe(self, monkeypatch):
        def pipe(content: bytes) -> None:
            monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))

        return pipe

    def test_standard_input_is_kept_under_a_name_made_from_its_hash(self, pipe, tmp_path):
        pipe(b"some text")
        path = save_stdin(tmp_path / "stdin")
        assert path.read_bytes() == b"some text"
        assert path.name == f"{hashlib.sha256(b'some text').hexdigest()[:16]}.txt"
        pipe(b"some text")
        assert save_stdin(tmp_path / "stdin") == path
        assert list((tmp_path / "stdin").iterdir()) == [path]

    def test_empty_standard_input_is_an_error_and_leaves_nothing(self, pipe, tmp_path):
        pipe(b"")
        with pytest.raises(DataError, match="no text came from standard input"):
            save_stdin(tmp_path)
        assert not list(tmp_path.iterdir())
