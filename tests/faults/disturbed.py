"""A command that reads from a Hub under faults of the network and kills until it ends; and what it then wrote."""

import json
import random
from collections.abc import Callable
from pathlib import Path

from tests.hub_server import HubServer, Request

_FAULTS = ("drop", "cut", "short", "429", "500", "502", "503")
_OF_FILES = (*_FAULTS, "flip", "flip", "other", "other")
_MOST_STARTS = 60
_GAVE_UP = ("another network", "run it again")  # bytes that stay wrong, a network that stays away


def disturb(hub: HubServer, chance: float, seed: int) -> None:
    """Let a Hub drop, cut, stall, err and flip bits, in such a share of its answers."""
    faults = random.Random(seed)

    def meet(request: Request) -> str | None:
        if faults.random() >= chance:
            return None
        if faults.random() < 0.02:
            return "stall"
        return faults.choice(_FAULTS if "/api/" in request.path else _OF_FILES)

    hub.plan = meet


def run_to_the_end(
    start: Callable[[int], int], choose: random.Random, powers: tuple[float, float], folder: Path
) -> int:
    """Start a command again until it ends; return how often it was killed.

    `start` takes the moment of a kill (a power of two between these; 0: none) and returns the exit code; the
    output is in `folder`/output. Raises AssertionError if the command ends in another way, or never.
    """
    kills = 0
    for attempted in range(_MOST_STARTS):
        # any moment for the first ones; then only the network troubles it
        code = start(int(2 ** choose.uniform(*powers)) if attempted < choose.randint(1, 6) else 0)
        if code == 0:
            return kills
        said = (folder / "output").read_text()
        (folder / "output").rename(folder / f"output-{attempted}")
        gave_up = code in (3, 4) and any(fix in said for fix in _GAVE_UP)
        assert code == -9 or gave_up, f"exit code {code}: {said[-500:]}"
        kills += code == -9
    raise AssertionError("it never ends")


def same_contents(first: Path, second: Path) -> None:
    """Compare every file of two folders, but for what manifests say of time and place.

    Raises AssertionError where they differ.
    """
    one, other = _contents(first), _contents(second)
    unlike = sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))
    assert not unlike, f"not the same: {unlike[:5]}"


def _contents(folder: Path) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for path in sorted(folder.rglob("*")):
        data = path.read_bytes() if path.is_file() else b"a folder"
        if path.name == "manifest.json":
            manifest = json.loads(data)
            del manifest["provenance"], manifest["sha256"]
            data = json.dumps(manifest, sort_keys=True).encode()
        found[path.relative_to(folder).as_posix()] = data
    return found
