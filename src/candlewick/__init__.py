"""Candlewick: from raw text to a trained transformer that runs everywhere.

    import candlewick

    model = candlewick.train("notes.txt", "runs/notes", seconds=60)
    print(model.generate("Dear "))

Names are imported when they are first used, as torch takes a second. `train` is a package too, which is called.
"""

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from candlewick.errors import CandlewickError
    from candlewick.runs.api import Evaluation, Model, PreparedText, load, prepare, train

__version__ = "0.1.0"
__all__ = ["CandlewickError", "Evaluation", "Model", "PreparedText", "__version__", "load", "prepare", "train"]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'candlewick' has no attribute {name!r}")
    if name == "train":
        return importlib.import_module("candlewick.train")
    home = "candlewick.errors" if name == "CandlewickError" else "candlewick.runs.api"
    return getattr(importlib.import_module(home), name)


def __dir__() -> list[str]:
    return __all__


class _CallablePackage(ModuleType):
    """The package `candlewick.train`: a call trains a model."""

    def __call__(self, *args: object, **settings: object) -> object:
        return importlib.import_module("candlewick.runs.api").train(*args, **settings)

    @property
    def __signature__(self) -> object:  # for help in editors and notebooks
        return importlib.import_module("inspect").signature(importlib.import_module("candlewick.runs.api").train)


class _Package(ModuleType):
    """This package, which learns of each package below it when that is imported."""

    def __setattr__(self, name: str, value: object) -> None:
        if name == "train" and isinstance(value, ModuleType):
            value.__class__ = _CallablePackage
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
