"""The shipped profiles: one YAML file each, whose first line says what it is for."""

from importlib import resources
from pathlib import Path


def profiles() -> list[str]:
    """Return the names of the shipped profiles."""
    names = (Path(entry.name) for entry in resources.files("candlewick.config.profiles").iterdir())
    return sorted(name.stem for name in names if name.suffix == ".yaml")


def read_profile(name: str) -> str:
    """Return the text of a shipped profile; its first line says what it is for."""
    return resources.files("candlewick.config.profiles").joinpath(f"{name}.yaml").read_text(encoding="utf-8")
