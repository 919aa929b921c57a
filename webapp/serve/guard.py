"""Ends the children of a supervisor that was killed and could not do so itself.

All children are in this process's group. It waits until its standard input ends, which happens however the supervisor
goes, then asks whoever is left in the group to end, and kills what does not.
"""

import contextlib
import os
import signal
import sys
import time

import psutil

PATIENCE = 15.0
"""Seconds that they may take to end before they are killed."""


def members() -> list[psutil.Process]:
    """The other living processes of this one's group."""
    own, found = os.getpid(), []
    for process in psutil.process_iter(["status"]):
        try:
            if process.pid != own and os.getpgid(process.pid) == own and process.info["status"] != "zombie":
                found.append(process)
        except OSError:
            # Gone meanwhile, or somebody else's.
            continue
    return found


def main() -> None:
    for name in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(name, signal.SIG_IGN)
    sys.stdin.buffer.read()
    end = time.monotonic() + PATIENCE
    asked: set[int] = set()
    while (left := members()) and time.monotonic() < end:
        # Each once, whenever it shows: one may have been on its way into the group.
        for process in left:
            if process.pid not in asked:
                asked.add(process.pid)
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.terminate()
        psutil.wait_procs(left, timeout=0.2)
    if left:
        os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    main()
