"""Wait for what another process does: the only clock that a test reads, so that one that hangs fails."""

import time
from collections.abc import Callable


def wait_until(holds: Callable[[], object], what: str, seconds: float = 120.0) -> None:
    """Return when a condition holds; fail when it never does."""
    limit = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < limit, f"still waiting for {what}"
        time.sleep(0.005)
