"""Wait for an event in another process, with the only time limit that a test reads."""

import time
from collections.abc import Callable


def wait_until(holds: Callable[[], object], what: str, seconds: float = 120.0) -> None:
    """Return when a condition holds; fail when it never does."""
    limit = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < limit, f"still waiting for {what}"
        time.sleep(0.005)
