"""One make at a time makes a run, or removes it."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from lib.paths import RunPaths

#: Shells and the Makefile use the descriptors below.
_DESCRIPTOR = 64


class LockError(ValueError):
    """Somebody else is at work on a run; the message says who, and what to do."""


@contextmanager
def held(files: RunPaths) -> Iterator[None]:
    """Hold a run within the block, or where the block becomes another program until that and all that it starts end.

    The system lets go of it, however they end. On a file system that has no locks nothing is held.

    Raises:
        LockError: if another process holds it.
    """
    files.lock.parent.mkdir(parents=True, exist_ok=True)
    opened = os.open(files.lock, os.O_RDWR | os.O_CREAT, 0o666)
    # Only the copy is inherited by the program that `exec` starts.
    descriptor = fcntl.fcntl(opened, fcntl.F_DUPFD, _DESCRIPTOR)
    os.close(opened)
    try:
        with suppress(OSError):
            if not take(descriptor):
                raise LockError(
                    f"RUN={files.run}: {_holder(files)} is at work on this run. Wait until it has ended, or end it; "
                    "another RUN can be made at the same time"
                )
        yield
    finally:
        os.close(descriptor)


def take(descriptor: int) -> bool:
    """Lock an opened file or folder, and tell whether it could be: not where another process holds its lock.

    Raises:
        OSError: on a file system that has no locks.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _holder(files: RunPaths) -> str:
    """The oldest process that has the lock, in words: make, or what has outlived it."""
    try:
        # Slow to import, seldom needed, and not there before there is an environment.
        import psutil
    except ImportError:
        return "another make"
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            opened = {file.path for file in process.open_files()} if process.pid != os.getpid() else set()
            if str(files.lock.resolve()) in opened:
                found.append((process.create_time(), f"{process.name()} (process {process.pid})"))
    return min(found)[1] if found else "another make, perhaps on another machine,"
