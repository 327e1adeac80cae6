"""Count the rooms of the package and the arrows between them: `python tests/rooms.py [PACKAGE]`.

A room is a folder or a file right below `candlewick`; each of the four parts of `data` is a room. An arrow A -> B
is: some module of A imports one of B. Files that import nothing and are imported by nobody are no rooms.
"""

import ast
import sys
from collections import defaultdict
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "src" / "candlewick"


def modules() -> dict[str, Path]:
    """Return every module of the package by its name below `candlewick`."""
    return {
        ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"): path
        for path in sorted(PACKAGE.rglob("*.py"))
        if path.parent != PACKAGE or not path.name.startswith("__")
    }


def room_of(module: str) -> str:
    """Return the room of a module."""
    parts = module.split(".")
    is_part_of_data = len(parts) > 1 and (PACKAGE / "data" / parts[1]).is_dir()
    return ".".join(parts[: 2 if parts[0] == "data" and is_part_of_data else 1])


def arrows() -> dict[tuple[str, str], list[str]]:
    """Return for each pair of rooms the imports `module -> module` that tie the first to the second."""
    known = modules()
    found: dict[tuple[str, str], list[str]] = defaultdict(list)
    for name, path in known.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            for target in _targets(node, known):
                pair = room_of(name), room_of(target)
                if pair[0] != pair[1]:
                    found[pair].append(f"{name} -> {target}")
    return dict(found)


def _targets(node: ast.AST, known: dict[str, Path]) -> list[str]:
    if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom) and node.module:
        names = [f"{node.module}.{alias.name}" for alias in node.names]
    else:
        return []
    own = [name.removeprefix("candlewick.") for name in names if name.startswith("candlewick.")]
    targets = (name if name in known else name.rpartition(".")[0] for name in own)
    return [target for target in targets if target in known]


def rooms() -> set[str]:
    """Return the rooms that hold more than a docstring."""
    known = modules()
    return {room_of(name) for name, path in known.items() if path.name != "__init__.py"}


def circle() -> list[str]:
    """Return rooms that import each other in a loop; empty: there are none."""
    above: dict[str, set[str]] = {room: set() for room in rooms()}
    for first, second in arrows():
        above.setdefault(first, set()).add(second)
    left = dict(above)
    while free := [room for room, below in left.items() if not below & left.keys()]:
        for room in free:
            del left[room]
    return sorted(left)


if __name__ == "__main__":
    PACKAGE = Path(sys.argv[1]) if len(sys.argv) > 1 else PACKAGE
    pairs = arrows()
    print(f"{len(rooms())} rooms, {len(pairs)} arrows, circle: {circle() or 'none'}")
    for (first, second), imports in sorted(pairs.items()):
        print(f"{first:14} -> {second:14} {len(imports):3}  {imports[0]}")
