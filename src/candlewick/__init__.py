"""Candlewick: from raw text to a trained transformer that runs everywhere.

    import candlewick

    model = candlewick.train("notes.txt", "runs/notes", seconds=60)
    print(model.generate("Dear "))

Names are imported when they are first used: torch takes a second.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from candlewick.errors import CandlewickError
    from candlewick.runs.api import Evaluation, Model, PreparedText, load, prepare, train

__version__ = "0.1.0"
__all__ = ["CandlewickError", "Evaluation", "Model", "PreparedText", "__version__", "load", "prepare", "train"]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'candlewick' has no attribute {name!r}")
    home = "candlewick.errors" if name == "CandlewickError" else "candlewick.runs.api"
    value = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
