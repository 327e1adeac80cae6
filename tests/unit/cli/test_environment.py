"""The cache folder follows the XDG base directory specification."""

import os
from pathlib import Path

import pytest

from candlewick.cli.environment import cache_home, share_cores, use_hub
from candlewick.errors import EnvironmentFault


def test_an_absolute_xdg_folder_is_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_home() == tmp_path / "candlewick"


@pytest.mark.parametrize("given", [None, "", "relative/folder"])
def test_anything_else_means_the_home_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, given: str | None):
    monkeypatch.setenv("HOME", str(tmp_path))
    if given is None:
        monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    else:
        monkeypatch.setenv("XDG_CACHE_HOME", given)
    assert cache_home() == tmp_path / ".cache" / "candlewick"


def test_no_home_folder_is_one_clear_line(monkeypatch: pytest.MonkeyPatch):
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", no_home)
    with pytest.raises(EnvironmentFault, match=r"no home folder.*fix: set XDG_CACHE_HOME or data\.cache_dir"):
        cache_home()


def test_waiting_threads_sleep_soon_unless_the_user_says_otherwise(monkeypatch):
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    share_cores()
    assert os.environ["GOMP_SPINCOUNT"] == "10000"
    monkeypatch.setenv("GOMP_SPINCOUNT", "7")
    share_cores()
    assert os.environ["GOMP_SPINCOUNT"] == "7"


def test_the_hub_uses_the_token_and_the_folder_that_are_given(monkeypatch, tmp_path):
    for name in ("HF_TOKEN", "HF_HOME", "HF_HUB_CACHE"):
        monkeypatch.setenv(name, "mine")
    use_hub()
    assert {os.environ[name] for name in ("HF_TOKEN", "HF_HOME", "HF_HUB_CACHE")} == {"mine"}
    use_hub(token="hf_x", home=tmp_path)
    assert os.environ["HF_TOKEN"] == "hf_x"
    assert (os.environ["HF_HOME"], os.environ["HF_HUB_CACHE"]) == (str(tmp_path), str(tmp_path / "hub"))
