"""The cache folder follows the XDG base directory specification."""

import os
from pathlib import Path

import pytest

from candlewick.cli.environment import cache_home, share_cores
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
