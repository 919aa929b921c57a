"""How many frames a client may send."""

import time

FRAMES_PER_SECOND = 20
FRAMES_AT_ONCE = 40


class Allowance:
    """So many frames a second, and so many at once."""

    def __init__(self) -> None:
        self._left, self._at = float(FRAMES_AT_ONCE), time.monotonic()

    def take(self) -> bool:
        """Whether one more is allowed now."""
        now = time.monotonic()
        self._left = min(float(FRAMES_AT_ONCE), self._left + (now - self._at) * FRAMES_PER_SECOND)
        self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True
