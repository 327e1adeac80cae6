"""The shipped profiles: one YAML file each, whose first line says what it is for."""

from importlib import resources


def profiles() -> list[str]:
    """Return the names of the shipped profiles."""
    names = (entry.name for entry in resources.files(__name__).iterdir())
    return sorted(name.removesuffix(".yaml") for name in names if name.endswith(".yaml"))


def read_profile(name: str) -> str:
    """Return the text of a shipped profile; its first line says what it is for."""
    return resources.files(__name__).joinpath(f"{name}.yaml").read_text(encoding="utf-8")
